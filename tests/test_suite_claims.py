"""bench_suite's claims: their order, the rates that come first, what is begun in a call, and another corpus."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from judge.claims.claim_file import find_claim
from judge.claims.planned import composed
from judge.records import find_runs
from judge.tuning.trials import tuning_of
from scripts import bench_suite
from scripts.study.training import Training
from scripts.suite import claims as suite_claims
from scripts.suite.claim_plan import STAGES, Plan
from scripts.suite.folder import Folder
from scripts.suite.pace import MARGIN, START, Pace
from tests.study import write_run
from tests.tuned import Pretended


def line_of(plan, folder, rated=()):
    return suite_claims._line(plan, folder, {"rates": list(rated), "failed": [], "starts": {}})


def test_claims_come_in_order_and_only_what_fits_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begun = []
    monkeypatch.setattr(suite_claims, "check_arms", lambda *_: None)
    monkeypatch.setattr(suite_claims, "prepare", lambda *_: {})

    def attempt(jobs, overrides, seconds):
        begun.append((jobs, overrides))
        return False, {}, None

    monkeypatch.setattr(suite_claims, "attempt", attempt)
    line = ["--part", "claims", "--device", "cpu", "--output", str(tmp_path / "device"), "--set", "checkpoint.every=9"]
    bench_suite.main([*line, "--only", "sophia_2x,muon_2x", "--trials", "0"])
    ((first, overrides),) = begun
    assert list(first) == ["sophia_2x-30m-adamw-T1000-s0"]
    assert overrides == ["device=cpu", "checkpoint.every=9"]
    assert "| sophia_2x | 27 | 0 | 0 |" in capsys.readouterr().out
    found = line_of(Plan("small", [], [], {}, 0, []), Folder(tmp_path))
    todo = found.ready
    assert [job.name.split("-")[0] for job in todo[:10]] == ["sophia_2x"] * 9 + ["soap_40_35"]
    assert {job.name.split("-")[2] for job in todo[:9]} == {"adamw"}
    assert [job.name[-1] for job in todo[:9]] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    assert (found.pace.updates, found.left) == ({}, len(todo))
    choose, known = suite_claims.choose, Pace({todo[0].kind: 0.01}, 0.01 / todo[0].tokens)
    assert choose(todo, Pace(), 100, begun=True) == todo[:1]  # nobody knows how long it takes
    expected = START["first"] + MARGIN * 0.01 * todo[0].left
    assert choose(todo[:2], known, 1.01 * expected, begun=True) == todo[:1]
    assert choose(todo[:1], known, 0.99 * expected, begun=True) == todo[:1]  # it gets to a checkpoint
    assert choose(todo, known, 0.1 * expected, begun=True) == []
    assert choose(todo, known, 0.1 * expected, begun=False) == todo[:1]  # the call has nothing else to do
    assert choose(todo, known, 1e9, begun=False) == todo[: suite_claims.MOST]


def test_each_arm_gets_as_many_trials_before_the_runs_take_the_best_rate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suite_claims, "check_arms", lambda *_: None)
    monkeypatch.setattr(suite_claims, "prepare", lambda *_: {})
    begun = []

    def attempt(experiments, overrides, seconds):
        begun.append(list(experiments))
        trials = [yaml.safe_load(text) for name, text in experiments.items() if name.startswith("rates-")]
        for values in trials:
            del values["defaults"]
            Pretended(optimum=3e-3, limit=0.05).write(training := Training(values))
            (training.folder / "checkpoints").mkdir()
        return len(trials) == len(experiments), {}, None  # of the claims' own runs none ends

    monkeypatch.setattr(suite_claims, "attempt", attempt)
    line = ["--part", "claims", "--device", "cpu", "--output", str(tmp_path / "device"), "--minutes", "1e6"]
    bench_suite.main([*line, "--only", "muon_2x,mkor"])
    assert list(map(len, begun)) == [1, 7, 10]  # 4 trials of AdamW and 4 of Muon, once the time of one is known
    assert not any(name.startswith("rates-") for name in begun[2])
    assert not list(Path("results").rglob("checkpoints"))
    book = json.loads((tmp_path / "device" / "claims.json").read_text())
    rows = {row["arm"]: row for row in book["rates"]}
    assert {arm: row["trials"] for arm, row in rows.items()} == {"adamw": 4, "muon": 4}
    assert {row["updates"] for row in rows.values()} == {1000}
    for row in rows.values():
        losses = {tuple(each["rates"].values()): each["loss"] for each in row["losses"] if each["loss"] is not None}
        assert losses[tuple(row["rates"].values())] == row["loss"] == min(losses.values())
        assert len(losses) == 4 - row["diverged"]
    assert rows["muon"]["diverged"] == 1
    assert "optimizer.lr" in rows["muon"]["at_an_end"]  # the lowest of them: the best lies below
    assert rows["adamw"]["at_an_end"] == []
    around = {"optimizer.lr": 0.02, "optimizer.adamw_lr": 2e-3}  # the claim's own
    assert list(rows["muon"]["rates"]) == list(around)
    assert list(rows["adamw"]["rates"]) == ["optimizer.lr"]
    for key, center in around.items():
        values = {each["rates"][key] for each in rows["muon"]["losses"]}
        assert len(values) == 4
        assert center / 4 <= min(values) < center < max(values) <= center * 4
    shown = capsys.readouterr().out
    told = next(line for line in shown.splitlines() if line.startswith("| muon | 30m, muon | 4 | 1,000 | 1 |"))
    lr, other = rows["muon"]["rates"].values()
    assert "| lr and adamw_lr |" in told
    assert f"{lr:g} and {other:g}: {rows['muon']['loss']:.4f}; " in told
    assert ": diverged | " in told
    assert f"| {lr:g} and {other:g} (lr" in told
    assert "muon_2x.rates-30m-muon-T2000-s0" in begun[2]
    assert "88 left" in shown  # 15 + 45 runs and MKOR's other 28 trials: its AdamW is Muon's
    (ranges,) = {(tuning.steps, *tuning.space) for path in Path("results/runs").glob("rates-*-tuning")
                 for tuning in tuning_of(path).values() if tuning.optimizer == "muon"}  # fmt: skip
    assert ranges == (2000, *around)
    plan, folder = Plan("small", ["muon_2x", "mkor"], [], {}, 4, []), Folder(tmp_path / "device")
    before = line_of(plan, folder, book["rates"])
    claim = before.claims["muon_2x"].claim
    values = composed(claim, "small", "30m", "adamw")
    Pretended().write(Training.of(values, {"seed": 1, "steps": 1000}, Path("results/runs/muon_2x.rates-small-30m")))
    assert line_of(plan, folder, book["rates"]).left == before.left - 2  # MKOR's claim has it too
    assert line_of(plan, folder, book["rates"]).left == before.left - 2
    (copied,) = find_runs("results/runs/mkor.rates-small-30m")
    assert (copied.seed, copied.steps, copied.optimizer) == (1, 1000, "adamw")
    shutil.rmtree(tmp_path / "results" / "runs")  # of a machine that is gone: what came of the sweep is in claims.json
    scale = plan.find("muon_2x", folder, book["rates"]).claim.scale("small")
    assert scale.overrides("30m", "muon").items() >= rows["muon"]["rates"].items()
    by = "the best of 4 settings of its rates at 1,000 updates, by scripts.bench_suite --part claims"
    assert scale.arms["adamw"].note == by
    ends = [key.removeprefix("optimizer.") for key in rows["muon"]["at_an_end"]]
    assert scale.arms["muon"].note == f"{by}, {' and '.join(ends)} at an end of what was tried"
    assert (scale.arms["muon"].at_an_end, scale.arms["adamw"].at_an_end) == (ends, [])
    assert (scale.arms["muon"].trials, scale.arms["adamw"].trials) == (4, 4)
    with pytest.raises(ValueError, match="was written for other --data, --rates or --trials"):
        Plan("small", [], [], {"muon": 0.5}, 4, []).find("muon_2x", folder, book["rates"])


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """Claims whose runs end at once, but for those whose names hold one of `broken`: what was begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suite_claims, "check_arms", lambda *_: None)
    monkeypatch.setattr(suite_claims, "prepare", lambda *_: {})
    monkeypatch.setattr(bench_suite.devices, "describe", lambda _: {"name": "NVIDIA H100"})  # as written runs have it
    begun, broken = [], []

    def attempt(experiments, overrides, seconds):
        for name, text in experiments.items():
            begun.append(name)
            values = yaml.safe_load(text)
            values.pop("defaults")
            if any(word in text for word in broken):
                return True, {name: "it is broken"}, None  # and what comes after it is not begun
            if not name.startswith("rates-"):
                claim, part, arm, steps, seed = name.split("-")
                changes, claim = {"steps": int(steps[1:]), "seed": int(seed[1:])}, found(claim)
                study = Path("results/runs") / claim.study("small", part)
                Pretended(optimum=3e-3).write(Training.of(composed(claim, "small", part, arm), changes, study))
            else:
                Pretended(optimum=3e-3).write(Training(values))
        return True, {}, None

    def found(name):
        path = tmp_path / "device" / "claims" / f"{name}.yaml"
        return find_claim(str(path) if path.is_file() else name)

    monkeypatch.setattr(suite_claims, "attempt", attempt)
    line = ["--part", "claims", "--device", "cpu", "--output", str(tmp_path / "device"), "--minutes", "1e6"]
    return lambda *more: bench_suite.main([*line, *more]), begun, broken


def test_a_run_that_fails_is_told_and_the_others_go_on(pretended, tmp_path, capsys):
    call, begun, broken = pretended
    broken.append("optimizer: muon")
    call("--only", "muon_2x", "--trials", "0")
    told = (tmp_path / "device" / "claims.md").read_text()
    assert "| muon_2x | 15 | 9 | 0 |" in told
    conclusions = told[told.index("# Conclusions\n\n1 claim with runs, 1 verdict:\n\n- at the scale small 1 under") :]
    assert "| below 1.4 in steps (Wen et al. 2025" in conclusions
    assert "- Beware: 6 of 15 planned runs are not there\n" in conclusions
    assert len(begun) == len(set(begun)) == 15  # none twice in a call
    assert [name.split("-")[2] for name in begun[-5:]] == ["muon"] * 5  # those like the first that failed: at the end
    assert "muon_2x-30m-muon-T1000-s0 | it is broken |" in told
    call("--only", "muon_2x", "--trials", "0")
    assert len(begun) == 15 + 6  # and once in the next
    broken.clear()
    call("--only", "muon_2x", "--trials", "0")
    assert "nothing is left of this part" in capsys.readouterr().out
    assert "## Failed" not in (tmp_path / "device" / "claims.md").read_text()


def test_an_arm_whose_trials_fail_keeps_nothing_waiting(pretended, tmp_path, capsys):
    call, begun, broken = pretended
    broken.append("name: muon")
    call("--only", "muon_2x,adahessian_lm")
    book = json.loads((tmp_path / "device" / "claims.json").read_text())
    rows = {row["claim"]: row for row in book["rows"]}
    assert rows["adahessian_lm"]["ended"] == rows["adahessian_lm"]["runs"]  # the stage after Muon's
    assert (rows["muon_2x"]["ended"], rows["muon_2x"]["runs"]) == (9, 15)  # AdamW's
    assert len(book["failed"]) == 4
    of_muon = [row["name"] for row in book["failed"]]
    assert begun[-3:] == of_muon[1:]  # the first of them failed in its turn, the others come last
    assert len(begun) == len(set(begun))
    assert "## Failed" in capsys.readouterr().out
    before = len(begun)
    call("--only", "muon_2x,adahessian_lm")
    assert sorted(begun[before:]) == sorted(of_muon)
    broken.clear()
    call("--only", "muon_2x,adahessian_lm")
    assert "nothing is left of this part" in capsys.readouterr().out


def test_what_has_ended_is_shared_with_arms_that_know_their_rate(pretended, tmp_path):
    call, begun, _ = pretended
    call("--only", "muon_2x")
    assert len([name for name in begun if "-adamw-T" in name and name.startswith("muon_2x")]) == 9
    plan, folder = Plan("small", ["muon_2x", "mkor"], [], {}, 4, []), Folder(tmp_path / "device")
    book = json.loads((tmp_path / "device" / "claims.json").read_text())
    line = line_of(plan, folder, book["rates"])
    ended = {job.arm for job, run in line.runs["mkor"].items() if run}
    assert ended == {"adamw"}  # K-FAC and the others wait for their trials
    assert all(line.claims["mkor"].waits("30m", arm) for arm in ("lamb", "kfac"))
    assert {job.name.partition("-")[0] for job in line.ready} == {"rates"}
    shutil.rmtree(tmp_path / "results/runs/mkor.rates-small-30m")
    unknown = line_of(plan, folder, [row for row in book["rates"] if row["optimizer"] != "adamw"])
    assert unknown.claims["mkor"].rows.keys() == {("30m", "adamw")}  # read back from its trials


def test_weights_of_runs_that_ended_before_a_kill_go_and_a_persons_stay(pretended, tmp_path):
    call, _, _ = pretended
    call("--only", "muon_2x")
    run, theirs = find_runs("results/runs/muon_2x.rates-small-30m")[0].folder, write_run(tmp_path / "results/runs/mine")
    trial = next(Path("results/runs").glob("rates-*-tuning/adamw/*/"))
    for folder in (run, trial, theirs):
        (folder / "checkpoints" / "step-00000001").mkdir(parents=True)
    call("--only", "muon_2x")
    assert [(folder / "checkpoints").exists() for folder in (run, trial, theirs)] == [False, False, True]


def test_every_stage_is_a_claim_and_its_arms():
    for stage in STAGES:
        scale = Plan("small", [], [], {}, 0, []).find(stage.claim, Folder("nowhere"), []).claim.scale("small")
        assert set(stage.arms) <= set(scale.arms)
