"""A W&B client that is slow to start loses nothing, and scripts.mirror builds what a run has not mirrored."""

import threading

import yaml

from harness import wandb_tracker
from harness.wandb_tracker import WandbTracker
from scripts.mirror import main
from tests.mirror import bare_client, be_patient, log, open_folder, server, stored_steps  # noqa: F401


def test_rows_wait_for_a_client_that_is_slow_to_start(tmp_path, capfd, monkeypatch):
    there, init = threading.Event(), wandb_tracker._init
    monkeypatch.setattr(wandb_tracker, "_init", lambda *inputs: there.wait() and init(*inputs))
    monkeypatch.setattr(wandb_tracker, "START", 0.0)  # no bound of the server's counts here
    folder = open_folder(tmp_path / "run")
    to = WandbTracker(folder.path, folder.config, folder.manifest, mode="offline")
    log(folder, to, 0, 10, 20)
    assert capfd.readouterr().err == ""
    there.set()
    to.close("finished")
    assert stored_steps(folder) == [0, 10, 20]
    assert capfd.readouterr().err.count("W&B is offline") == 1


def test_a_client_that_never_starts_ends_the_mirror_and_not_the_run(tmp_path, capfd, monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(wandb_tracker, "_init", lambda *_: never.wait())
    monkeypatch.setattr(wandb_tracker, "PATIENCE", 0.01)
    folder = open_folder(tmp_path / "run")
    to = WandbTracker(folder.path, folder.config, folder.manifest, mode="offline")
    log(folder, to, 0)
    to.close("finished")
    assert "W&B failed (no answer within 0 s); the run goes on without it" in capfd.readouterr().err
    never.set()


def test_a_folder_is_mirrored_afterwards_without_duplicates(tmp_path, server, capfd):  # noqa: F811
    folder = open_folder(tmp_path / "study" / "run")
    config = {**folder.config, "tracker": {"name": "none"}}
    (folder.path / "config.yaml").write_text(yaml.safe_dump(config))
    for step in (0, 10, 20):
        folder.append({"step": step, "tokens": 512 * step, "val/loss": 5.0})
    folder.finish("finished")
    folder.close()
    for _ in range(2):
        main([str(tmp_path / "study")])
    (run,) = server.runs.values()
    assert [r["step"] for r in run.rows] == [0, 10, 20]
    assert run.exit_code == 0
    main([str(folder.path), "--mode", "offline"])
    assert stored_steps(folder) == [0, 10, 20]
    assert server.url in capfd.readouterr().err
