"""Weights & Biases as a mirror of metrics.jsonl, online or offline, that survives whatever W&B does.

python train.py tracker=wandb                        needs `wandb login` once; without it, kept offline
python train.py tracker=wandb tracker.mode=offline   upload it later: the command is printed
"""

import atexit
import hashlib
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Literal, TypeVar

from conventions.config_keys import optimizer_label
from conventions.run_format import read_rows
from conventions.sentence import say, sentence
from harness.config import config_hash

T = TypeVar("T")
Row = dict[str, Any]

AXES = ("step", "tokens", "flops/total", "seconds/total")
# Seconds that a call of W&B's client may take: a server that is away costs START once and FINISH once.
START, LOG, FINISH, TEARDOWN = 10.0, 10.0, 20.0, 5.0
# Seconds that a run which has ended waits for what needs no server: the client to start, and to write its files.
PATIENCE = 300.0
GRACE = 5.0  # so that its own timeouts are reported as its own
FAILURES = (Exception, SystemExit)  # whatever the client throws; Ctrl-C is not its


class WandbTracker:
    """Weights & Biases, with its files in the run's folder. Rows must stand in metrics.jsonl before they come here.

    A resumed run keeps its W&B id. W&B drops a row whose step is not above the last one's, and a kill can lose rows
    that it had not sent or written yet. So a start first asks how far the server has come, takes the rows that are
    missing there from metrics.jsonl, and sends none twice.

    The client starts beside the training, however long that takes: until it is there, rows wait in metrics.jsonl.
    Every call of it is bounded in time. One that fails online makes the mirror go on offline; one that fails there
    ends the mirror. One line on stderr says so, and scripts.mirror can build the whole of it later.

    Args:
        project, entity: where in W&B; entity None is the account's own.
        mode: offline keeps the files for `wandb sync`.
        group: None stands for runs of this study that are alike in all but the seed.
        tags: besides the names of model, data and optimizer.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        manifest: dict[str, Any],
        project: str = "halfstep",
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] = "online",
        group: str | None = None,
        tags: list[str] | None = None,
    ) -> None:
        optimizer = optimizer_label(config["optimizer"])
        labels = dict.fromkeys([config["model"]["name"], config["data"]["name"], optimizer, *(tags or [])])
        # A run begun anew in a deleted folder, or one of the same name elsewhere, is another run to W&B too.
        identity = [manifest[key] for key in ("study", "name", "config_hash", "started")]
        self.folder = folder
        self._options = {
            "project": project,
            "entity": entity,
            "group": group or group_of(config, manifest["study"]),
            "job_type": "train",
            "name": manifest["name"],
            "id": hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16],
            "tags": [label[:64] for label in labels if label],  # W&B refuses longer ones
            "config": {**config, "manifest": manifest},
            "dir": str(folder),
            "resume": "allow",
            "reinit": "create_new",  # a run of the same sweep that failed may not have been finished
        }
        self._run: Any = None
        self._starting: Future[Any] | None = None
        self._trouble: str | None = None  # why it could not be online
        self._mode: str = mode
        self._next = 0  # steps below are there already
        if mode != "disabled":
            self._start()

    def log(self, row: Row) -> None:
        self.take_up()
        if self._run is not None:
            try:
                self._send(row)
            except FAILURES as error:
                self._fail(error)

    def close(self, status: str, summary: dict[str, float] | None = None) -> None:
        """Mark the run as ended; what could not be uploaded by then stays in its files. summary: what W&B shows too."""
        self.take_up(PATIENCE)
        if self._run is None:
            return
        command = self._sync_command
        try:
            bounded(
                lambda: _finish(self._run, status, summary), (FINISH if self._mode == "online" else PATIENCE) + GRACE
            )
        except FAILURES as error:
            _tear_down()
            say(f"W&B did not take the whole run ({_reason(error)}); upload the rest with: {command}")
        self._run = None
        atexit.unregister(self._cut)

    def _cut(self) -> None:
        """Mark as cut, at exit, a run that nobody closed: W&B would take it for finished."""
        self.take_up(START)
        if self._run is not None:
            with suppress(*FAILURES):
                _finish(self._run, "cut")  # not bounded: no thread can start this late

    @property
    def _files(self) -> Path:
        """Return the folder in which the client keeps the files of this start."""
        return Path(self._run.dir).parent

    @property
    def _sync_command(self) -> str:
        online = "--include-online " if self._mode == "online" else ""
        return f"wandb sync {online}{shlex.quote(str(self._files))}"

    def _start(self) -> None:
        """Begin or go on, in a thread of its own: a loaded node takes minutes for it."""
        self._starting = in_background(lambda: _init(self._options, self._mode))

    def take_up(self, wait: float = 0.0) -> None:
        """Catch up with metrics.jsonl once the client has started, for which this waits so many seconds."""
        while self._starting is not None:
            if not self._starting.done() and not wait:
                return
            try:
                self._run = outcome_of(self._starting, wait)
                self._starting = None
                self._catch_up()
            except FAILURES as error:
                self._fail(error)

    def _catch_up(self) -> None:
        """Send the rows that W&B lacks, and say where it keeps them."""
        synced = _put_aside(self._files)
        self._next = self._run.starting_step if self._mode == "online" else synced
        atexit.register(self._cut)  # after the client's own hook, and so before it
        for row in read_rows(self.folder / "metrics.jsonl"):
            self._send(row)
        if self._mode == "online":
            say(f"W&B shows this run at {self._run.url}")
        elif self._trouble:
            say(f"W&B is kept offline ({self._trouble}); upload it later with: {self._sync_command}")
        else:
            say(f"W&B is offline; upload it with: {self._sync_command}")

    def _send(self, row: Row) -> None:
        step = row["step"]
        if step < self._next:
            return
        values = {key: value for key, value in row.items() if key != "schema" and _is_known(value)}
        bounded(lambda: self._run.log(values, step=step, commit=True), LOG)
        self._next = step + 1

    def _fail(self, error: BaseException) -> None:
        self._run = self._starting = None
        _tear_down()
        if self._mode == "online" and not isinstance(error, ModuleNotFoundError):
            self._mode, self._trouble = "offline", _reason(error)
            self._start()
        else:
            say(f"W&B failed ({_reason(error)}); the run goes on without it, metrics.jsonl has every row")


def group_of(config: dict[str, Any], study: str) -> str:
    """Name the group in W&B of a study's runs that are alike in all but the seed."""
    return f"{study}/{optimizer_label(config['optimizer'])}-{config_hash({**config, 'seed': None})[:8]}"


def _init(options: dict[str, Any], mode: str) -> Any:
    """Begin a W&B run, and define its axes."""
    # The client's reports about itself hold up the exit where there is no network.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(
        silent=True, console="off", disable_git=True,  # the manifest has the commit
        init_timeout=START, finish_timeout=FINISH, finish_timeout_raises=True,
    )  # fmt: skip
    wandb.setup(settings=settings)
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        raise ConnectionError("no API key, `wandb login` asks for it")
    run = wandb.init(**options, mode=mode, settings=settings)  # type: ignore[arg-type]
    # Every row holds all of AXES, so that any chart can take any of them; the first is what charts open with.
    for axis in AXES:
        run.define_metric(axis, hidden=axis in ("step", "tokens"))  # whose own charts are straight lines
    run.define_metric("*", step_metric=AXES[0])
    run.define_metric("val/loss", step_metric=AXES[0], summary="min,last")
    return run


def _finish(run: Any, status: str, summary: dict[str, float] | None = None) -> None:
    run.summary.update({"status": status, **(summary or {})})
    run.finish(exit_code=0 if status in ("finished", "diverged") else 1)


def _tear_down() -> None:
    """Let go of all that the client holds: it keeps a run's id, and a hung one would hang again at exit."""

    def tear_down() -> None:
        import wandb

        wandb.teardown()

    with suppress(*FAILURES):
        bounded(tear_down, TEARDOWN)


def _put_aside(files: Path) -> int:
    """Move older offline files that were never synced out of the way: `files` take their rows from metrics.jsonl.

    A kill tears them, and `wandb sync` does not get past a torn one. Returns the first step that none of the synced
    ones holds.
    """
    after = 0
    for older in files.parent.glob("offline-run-*"):
        if any(older.glob("*.wandb.synced")):
            after = max(after, _next_step(older))
        elif older.name != files.name:
            (files.parent / "superseded").mkdir(exist_ok=True)
            older.rename(files.parent / "superseded" / older.name)
    return after


def _next_step(files: Path) -> int:
    """Return the step after the last in W&B's files of one start, by its own reader; 0 if it cannot tell."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", str(files), "--summary", "--json"]
    with suppress(OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        shown = subprocess.run(command, capture_output=True, text=True, timeout=START, check=True).stdout
        return json.loads(shown)["step"] + 1  # null without rows
    return 0


def in_background(call: Callable[[], T]) -> Future[T]:
    """Make a call in a thread of its own, which holds up no exit; returns its outcome to come."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=work, daemon=True).start()
    return outcome


def outcome_of(outcome: Future[T], seconds: float) -> T:
    """Return or raise what a call does; a TimeoutError, and the call left behind, if that takes longer."""
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():  # the call's own
            raise
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None


def bounded(call: Callable[[], T], seconds: float) -> T:
    """Return or raise what `call` does, within so many seconds: see `outcome_of`."""
    return outcome_of(in_background(call), seconds)


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _reason(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install {error.name}"
    return sentence(error)[:300]
