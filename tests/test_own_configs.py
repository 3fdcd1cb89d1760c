"""A folder of the user's own configs, --config-dir, works in every way of starting a run."""

import json

import pytest
import yaml

from conventions.config_keys import CONFIGS
from harness.command_line import composed
from harness.sweep.planned import launcher_of, refuse_fixed
from harness.words import own_configs
from judge.claims.claim_file import read_claim
from scripts import tune, verdict
from scripts.claims import main as claims
from scripts.study.claim_runs import ClaimRuns
from tests.claimed import scale, write_claim
from tests.command import complaint, in_process, manifest, real
from tests.tuned import Pretended


@pytest.fixture
def own(here):
    """A folder with a space and a comma in its name, with an optimizer and a launcher."""
    folder = here / "my own, configs"
    for group, option, name in (("optimizer", "lion", "mine"), ("launcher", "local", "two")):
        (folder / group).mkdir(parents=True)
        values = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text())
        changed = {"lr": 0.0125} if group == "optimizer" else {"jobs": 2}
        (folder / group / f"{name}.yaml").write_text(yaml.safe_dump({**values, **changed}))
    return folder


def test_the_flag_stands_anywhere_and_its_folder_may_be_relative_or_at_home(own, monkeypatch):
    monkeypatch.setenv("HOME", str(own.parent))
    expected = [f"--config-dir={own}"], ["steps=1", "-m", "seed=1"]
    for words in (
        ["--config-dir", own.name, "steps=1", "-m", "seed=1"],
        ["steps=1", f"--config-dir=~/{own.name}", "-m", "seed=1"],
        ["steps=1", "-m", "seed=1", "-cd", str(own)],
    ):
        assert own_configs(words) == expected


def test_one_run(own):
    ended = in_process("optimizer=mine", "steps=1", "run_dir=run", "--config-dir", own.name)
    assert ended.code == 0, ended.err
    assert yaml.safe_load((own.parent / "run" / "config.yaml").read_text())["optimizer"]["lr"] == 0.0125
    assert complaint(in_process("--config-dir=nowhere")) == (
        "--config-dir=nowhere is no folder: give one that holds optimizer/, say"
    )


@pytest.mark.slow
def test_a_sweep_whose_jobs_are_processes_of_their_own(own, here):
    ended = real("-m", "optimizer=mine,adamw", "launcher=two", "study=s", "steps=1", f"--config-dir={own}", cwd=here)
    assert ended.code == 0, ended.err
    runs = list((here / "results/runs/s").glob("*/manifest.json"))
    assert [manifest(path.parent)["status"] for path in runs] == ["finished", "finished"]


def test_what_programs_compose_and_hand_to_a_sweep(own):
    words = ["optimizer=mine", "launcher=two", "--config-dir", str(own)]
    assert composed(words)["optimizer"]["lr"] == 0.0125
    flags, rest = own_configs(words)
    assert launcher_of([*flags, *rest]) == [*flags, "launcher=two"]
    refuse_fixed([*flags, "launcher=two"], "the claim")
    with pytest.raises(ValueError, match="optimizer=mine would change"):
        refuse_fixed([*flags, *rest], "the claim")


def test_a_tuning(own, monkeypatch):
    sweep = Pretended()
    monkeypatch.setattr(tune, "train_all", sweep)
    tune.main(["model=gpt2_pico", "steps=200", "study=s", "trials=2", "optimizer=mine", "-cd", str(own)])
    assert {run.config["optimizer"]["name"] for run in sweep.trained} == {"lion"}


def test_a_verdict(own, capsys):
    verdict.main(["mine", "--config-dir", str(own), "--plan", "launcher=two"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 side by side" in shown


def test_a_claim(own, capsys):
    arms = {"old": {"config": {"optimizer": "adamw"}, "lengths": [0.5, 1, 2]}, "new": {"config": {"optimizer": "mine"}}}
    path = write_claim(own.parent, {"tiny": scale(arms=arms)})
    claims(["plan", str(path), "--config-dir", str(own)])
    assert "new" in capsys.readouterr().out
    runs = ClaimRuns(read_claim(path), "tiny", ["only"], [0], [f"--config-dir={own}", "launcher=two"])
    plans = runs.plans()
    (new,) = [run for run in runs.planned(plans, runs.runs_by_cell(plans)) if run.config["optimizer"]["name"] == "lion"]
    assert new.config["optimizer"]["lr"] == 0.0125
    with pytest.raises(SystemExit, match="2"):
        claims(["run", str(path)])
    assert "the arm new of tiny/only: optimizer=mine is not there" in capsys.readouterr().err
    assert json.dumps(new.config)  # nothing of the folder is needed to train it
