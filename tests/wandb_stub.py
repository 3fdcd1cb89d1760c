"""A stand-in for W&B's server: enough of its API for init, log, finish, `wandb sync`
and saved workspaces, on a port of this machine."""

import json
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "p", "name": "halfstep", "entity": {"id": "e", "name": "me"}}
VIEWER = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}


@dataclass
class StoredRun:
    """What the server knows of a run."""

    lines: list[str] = field(default_factory=list)  # of its history, as they came
    upserts: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def first(self, key: str) -> Any:
        return next(upsert[key] for upsert in self.upserts if upsert.get(key) is not None)

    def bucket(self) -> dict[str, Any]:
        """What a client asks before it goes on with a run."""
        config = self.upserts[-1]["config"] if self.upserts else "{}"
        return {
            "id": "b", "name": "b", "displayName": "b", "notes": "", "tags": [], "config": config,
            "summaryMetrics": json.dumps(self.summary), "wandbConfig": '{"t": 1}',
            "logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(self.lines),
            "eventsTail": "[]", "historyTail": json.dumps(self.lines[-1:]),
        }  # fmt: skip


class WandbStub(ThreadingHTTPServer):
    """Serves from a thread until `close`. While `answering` is cleared, requests hang."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.runs: dict[str, StoredRun] = {}
        self.views: dict[str, dict[str, Any]] = {}  # saved workspaces, by name
        self.answering = threading.Event()
        self.answering.set()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.answering.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that was killed in the middle of a request is what some tests are about, not news on stderr."""
        if not isinstance(sys.exception(), OSError):
            raise

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL reply."""
        name = variables.get("name")
        if "RunResumeStatus" in query:
            known = self.runs.get(str(name))
            return {"model": {**PROJECT, "bucket": known.bucket() if known else None}}
        if "upsertBucket" in query:
            run = self.runs.setdefault(str(name), StoredRun())
            run.upserts.append(variables)
            bucket = {**run.bucket(), "name": name, "displayName": variables["displayName"], "project": PROJECT}
            return {"upsertBucket": {"bucket": bucket, "inserted": len(run.upserts) == 1}}
        if "upsertView" in query:
            known = next((each for each in self.views.values() if each["id"] == variables.get("id")), None)
            view = {"id": f"view{len(self.views)}", **(known or {}), **variables}
            self.views[str(name)] = view
            return {"upsertView": {"view": {"id": view["id"], "name": name}, "inserted": known is None}}
        if "allViews" in query:
            result = self.views.get(variables["viewName"])
            return {"project": {"allViews": {"edges": [{"node": result}] if result else []}}}
        if "createRunFiles" in query:
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
        return {"viewer": VIEWER}

    def stream(self, name: str, body: dict[str, Any]) -> None:
        """Lines of a run's files, each file's from an offset on."""
        run, files = self.runs[name], body.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            run.lines[history["offset"] :] = history["content"]
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        if body.get("complete"):
            run.exit_code = body["exitcode"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbStub

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answering.wait()
        reply: dict[str, Any] = {}
        if self.path == "/graphql":
            body = json.loads(sent)
            reply = {"data": self.server.answer(body["query"], body.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(sent))
        data = json.dumps(reply).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client has gone meanwhile
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass
