"""A run's folder while the run is writing it: config, manifest, metrics and the lock. Read back by judge.records.

Every file is replaced atomically, metrics.jsonl is appended to by whole lines: a kill at any moment leaves a folder
that reads, and that `resume=true` goes on from.
"""

import fcntl
import json
import math
import os
from pathlib import Path
from typing import Any

from conventions.config_keys import differing_keys, flatten, within
from conventions.json_text import parse_json
from conventions.older_keys import completed
from conventions.run_format import SCHEMA, is_locked
from conventions.sentence import DISK_FULL
from conventions.yaml_file import read_yaml, yaml_text
from harness import manifest
from harness.config import LOCATIONS, UNHASHED, config_hash
from harness.manifest import Manifest


class RunFolder:
    """The folder of one run, which no other process writes while this one has its lock.

    `open` makes it or takes it up again; on ranks other than the first every method that writes does nothing.
    """

    def __init__(self, path: Path, config: dict[str, Any], digest: str, writes: bool = True) -> None:
        self.path = path
        self.config = config
        self.digest = digest
        self.writes = writes
        self.manifest: Manifest = {}
        self._lock: int | None = None

    def check(self, resume: bool) -> Manifest | None:
        """Return the manifest of this very run if it was begun before, None if the folder is free to begin in.

        Raises:
            ValueError: the folder exists and resume is false, holds something else, is another config's run, or is
                being written by a live process.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"run_dir={self.path} is a file: give a folder that is empty or new")
        old = manifest.read(self.path / "manifest.json")
        if old is None:
            if self.path.exists() and not self._is_blank():
                raise ValueError(f"run_dir={self.path} holds files but no run: give a folder that is empty or new")
            return None
        if self._lock is None and is_locked(self.path / "run.lock"):
            raise self._taken()
        if not resume:
            raise ValueError(
                f"{self.path} exists already ({old['status']}): add resume=true to go on with it, "
                "or give another run_dir or study"
            )
        if old["config_hash"] != self.digest:
            config = self._read_config()
            keys = differing_keys([flatten(each) for each in (completed(config), self.config)] if config else [{}])
            keys = [key for key in keys if not within(key, (*UNHASHED, *LOCATIONS))]
            if keys or not config or config_hash(config) not in (old["config_hash"], self.digest):
                raise ValueError(
                    f"{self.path} is a run of another config (it differs in {', '.join(keys) or 'its version'}): "
                    "give the same keys, or another run_dir"
                )
            self.digest = old["config_hash"]  # the same run, whose data lie elsewhere: `open` compares the tokens
        return old

    def open(self, facts: Manifest, resume: bool, step: int = 0) -> None:
        """Take the folder, as `check` allows, and write the manifest of a run of which these are the facts.

        Args:
            step: from which the run goes on.

        Raises:
            ValueError: as `check`, or the run was begun on other tokens.
            OSError: the folder cannot be made.
        """
        self.manifest = {"name": self.path.name, **facts}
        if not self.writes:
            return
        self.check(resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise OSError(f"run_dir={self.path} cannot be made ({error.strerror}): give another") from error
        self._take_lock()
        old = self.check(resume)  # again: another process may have begun it while we took the lock
        if old is None:
            self._replace("config.yaml", yaml_text(self.config))
            self.manifest = manifest.begun(self.path.name, facts)
        else:
            if old["data"]["fingerprint"] != facts["data"]["fingerprint"]:
                raise ValueError(
                    f"{self.path} was begun on other tokens: data={old['data']['name']} has another fingerprint since; "
                    "bring the old shards back, or start over in another run_dir"
                )
            self.manifest = manifest.resumed(old, self.path.name, facts, step)
        self.write_manifest()

    def _read_config(self) -> dict[str, Any]:
        try:
            return read_yaml(self.path / "config.yaml")
        except (OSError, ValueError):
            return {}  # then every key differs

    def _is_blank(self) -> bool:
        """Say whether a kill could have left the folder so before its manifest was written."""
        return self.path.is_dir() and all(
            p.name in ("run.lock", "config.yaml") or p.name.startswith(".new-") for p in self.path.iterdir()
        )

    def _take_lock(self) -> None:
        handle = os.open(self.path / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise self._taken() from None
        self._lock = handle

    def _taken(self) -> ValueError:
        return ValueError(f"{self.path} is being written by a run that is still going: wait for it or stop it")

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def update(self, **entries: Any) -> None:
        """Change entries of the manifest."""
        self.manifest.update(entries)
        self.write_manifest()

    def finish(self, status: str, error: str | None = None) -> None:
        """Record the end of the run: finished, diverged or failed."""
        self.update(status=status, error=error, ended=manifest.now())

    def fail(self, error: str) -> None:
        """Record that a run failed, if it had begun."""
        if self._lock is not None and self.manifest.get("status") == "running":
            self.finish("failed", error)

    def write_manifest(self) -> None:
        if self.writes:
            self._replace("manifest.json", json.dumps(self.manifest, indent=2) + "\n")

    def append(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl. What is not finite becomes null."""
        if not self.writes:
            return
        row = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
        _write(self.path / "metrics.jsonl", "a", json.dumps({"schema": SCHEMA, **row}) + "\n")

    def sync(self) -> None:
        """See that the rows so far are on the disk: a checkpoint must not outlive the rows before it."""
        path = self.path / "metrics.jsonl"
        if self.writes and path.exists():
            with open(path) as file:
                os.fsync(file.fileno())

    def cut(self, step: int, expected: list[int]) -> None:
        """Drop the rows from `step` on, and a torn last line: they are about to be computed again.

        Raises:
            ValueError: the rows before `step` are not those of the `expected` steps; nothing is changed then.
        """
        path = self.path / "metrics.jsonl"
        if not self.writes:
            return
        there = path.exists()
        lines = path.read_text(errors="replace").splitlines() if there and step > 0 else []
        kept, steps = [], []
        for number, line in enumerate(lines, 1):
            try:
                at = parse_json(line)["step"]
                if at < step:
                    kept.append(line + "\n")
                    steps.append(at)
            except (ValueError, KeyError, TypeError):
                if number < len(lines):
                    raise ValueError(
                        f"{path}, line {number}, is broken: restore the file, or begin again in another run_dir"
                    ) from None
        if steps != expected:
            raise ValueError(
                f"{path} has lost rows from before the checkpoint of step {step}: "
                "restore the file, or begin again in another run_dir"
            )
        if (target := self.manifest.get("target")) and target["step"] >= step:
            self.update(target=None)
        if there:
            self._replace("metrics.jsonl", "".join(kept))

    def _replace(self, name: str, text: str) -> None:
        new = self.path / f".new-{name}"
        _write(new, "w", text, durable=True)
        os.replace(new, self.path / name)


def _write(path: Path, mode: str, text: str, durable: bool = False) -> None:
    try:
        with open(path, mode) as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say what was being written
        raise
