"""bench_suite's claims: their order, the rates that come first, what is begun in a call, and another corpus."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from harness.claims.claim_file import find_claim
from harness.claims.planned import composed
from harness.records import find_runs
from scripts import bench_suite
from scripts.study.training import Training
from scripts.suite import claims as suite_claims
from scripts.suite import rates
from scripts.suite.claim_plan import STAGES, Plan, check_data
from scripts.suite.folder import Folder
from tests.tuned import Pretended


def test_claims_come_in_order_and_only_what_fits_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begun = []
    monkeypatch.setattr(suite_claims, "check_arms", lambda *_: None)
    monkeypatch.setattr(suite_claims, "train", lambda jobs, overrides, seconds: begun.append((jobs, overrides)))
    line = ["--part", "claims", "--device", "cpu", "--output", str(tmp_path / "device"), "--set", "checkpoint.every=9"]
    bench_suite.main([*line, "--only", "sophia_2x,muon_2x", "--trials", "0"])
    ((first, overrides),) = begun
    assert list(first) == ["sophia_2x-30m-adamw-T1000-s0"]
    assert overrides == ["device=cpu", "checkpoint.every=9"]
    assert "| sophia_2x | 27 | 0 | 0 |" in capsys.readouterr().out
    found = suite_claims._line(Plan("small", [], [], {}, 0, []), Folder(tmp_path), [])
    todo, took = found.ready, found.took
    assert [job.name.split("-")[0] for job in todo[:10]] == ["sophia_2x"] * 9 + ["soap_40_35"]
    assert {job.name.split("-")[2] for job in todo[:9]} == {"adamw"}
    assert [job.name[-1] for job in todo[:9]] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    assert (took, found.left) == ({}, len(todo))
    choose, known = suite_claims.choose, {todo[0].kind: 0.01}
    assert choose(todo, {}, 100, begun=True) == todo[:1]  # nobody knows how long it takes
    expected = suite_claims.MARGIN * 0.01 * todo[0].steps
    assert choose(todo, known, 1.01 * expected, begun=True) == todo[:1]
    assert choose(todo, known, 0.9 * expected, begun=True) == []
    assert choose(todo, known, 0.9 * expected, begun=False) == todo[:1]  # it has the whole call, and may go on
    assert choose(todo, known, 1e9, begun=False) == todo[: suite_claims.MOST]


def test_each_arm_gets_as_many_trials_before_the_runs_take_the_best_rate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suite_claims, "check_arms", lambda *_: None)
    begun = []

    def train(experiments, overrides, seconds):
        begun.append(list(experiments))
        trials = [yaml.safe_load(text) for name, text in experiments.items() if name.startswith("rates-")]
        for values in trials:
            del values["defaults"]
            Pretended(optimum=3e-3, limit=0.05).write(training := Training(values))
            (training.folder / "checkpoints").mkdir()
        return len(trials) == len(experiments)  # of the claims' own runs none ends

    monkeypatch.setattr(suite_claims, "train", train)
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
    plan, folder = Plan("small", ["muon_2x", "mkor"], [], {}, 4, []), Folder(tmp_path / "device")
    before = suite_claims._line(plan, folder, book["rates"])
    claim = before.claims["muon_2x"].claim
    values = composed(claim, "small", "30m", "adamw")
    Pretended().write(Training.of(values, {"seed": 1, "steps": 1000}, Path("results/runs/muon_2x.rates-small-30m")))
    assert suite_claims._line(plan, folder, book["rates"]).left == before.left - 2  # MKOR's claim has it too
    assert suite_claims._line(plan, folder, book["rates"]).left == before.left - 2
    (copied,) = find_runs("results/runs/mkor.rates-small-30m")
    assert (copied.seed, copied.steps, copied.optimizer) == (1, 1000, "adamw")
    shutil.rmtree(tmp_path / "results" / "runs")  # of a machine that is gone: what came of the sweep is in claims.json
    scale = plan.find("muon_2x", folder, book["rates"]).claim.scale("small")
    assert scale.overrides("30m", "muon").items() >= rows["muon"]["rates"].items()
    assert scale.arms["muon"].note == (
        "the best of 4 settings of its rates at 1,000 updates, by scripts.bench_suite --part claims"
    )
    assert (scale.arms["muon"].trials, scale.arms["adamw"].trials) == (4, 4)
    with pytest.raises(ValueError, match="was written for other --data, --rates or --trials"):
        Plan("small", [], [], {"muon": 0.5}, 4, []).find("muon_2x", folder, book["rates"])


def test_rates_are_known_by_their_names():
    section = {"name": "x", "adamw_lr": 1e-3, "lr": 2, "lr_decay": 0.5, "color": 1.0, "my_lr": None, "no_lr": 0.0}
    assert list(rates.rates_of(section).items()) == [("optimizer.lr", 2.0), ("optimizer.adamw_lr", 1e-3)]


def test_what_a_note_says_beside_the_rates_stays():
    scale = {"arms": {"new": {"note": "a guess; power 1/4"}, "old": {}}, "parts": {"a": {}, "b": {}}}
    for part in scale["parts"]:
        rates.put(scale, part, "new", {"optimizer.lr": 1.0}, 4, "the best of 4")
    rates.put(scale, "a", "old", {"optimizer.lr": 1.0}, 0, "by hand")
    assert [arm["note"] for arm in scale["arms"].values()] == ["the best of 4; power 1/4", "by hand"]


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suite_claims, "check_arms", lambda *_: None)
    begun: list[list[str]] = []

    def train(experiments, overrides, seconds):
        begun.append(list(experiments))
        claim = find_claim("muon_2x")
        for part, arm, steps, seed in (name.split("-")[1:] for name in experiments):
            if arm == "adamw":  # of Muon's none ends
                changes = {"steps": int(steps[1:]), "seed": int(seed[1:])}
                study = Path("results/runs") / claim.study("small", part)
                Pretended().write(Training.of(composed(claim, "small", part, arm), changes, study))
        raise ValueError("a run did not end")

    monkeypatch.setattr(suite_claims, "train", train)
    line = ["--part", "claims", "--device", "cpu", "--output", str(tmp_path / "device"), "--minutes", "1e6"]
    bench_suite.main([*line, "--only", "muon_2x", "--trials", "0"])
    told = (tmp_path / "device" / "claims.md").read_text()
    assert "| muon_2x | 15 | 9 | 0 |" in told
    conclusions = told[told.index("# Conclusions\n\n1 claim with runs, 1 verdict:\n\n- at the scale small 1 under") :]
    assert "| below 1.4 in steps (Wen et al. 2025" in conclusions
    assert "- Beware: 6 of 15 planned runs are not there\n" in conclusions
    names = [name for chosen in begun for name in chosen]
    assert len(names) == len(set(names))  # none is begun twice in a call
    with pytest.raises(SystemExit, match="2"):
        bench_suite.main([*line, "--only", "muon_2x", "--trials", "0"])
    assert len(begun[-1]) == 6
    assert "a run did not end" in capsys.readouterr().err


def test_a_claim_on_another_corpus_is_a_file_of_its_own(tmp_path):
    data = check_data(["data=local", "data.files=[a.jsonl,b.jsonl]", "eval.tokens=1000"])
    claim = Plan("small", [], data, {"soap": 0.5}, 0, []).find("soap_40_35", Folder(tmp_path), []).claim
    assert claim.name == "soap_40_35.local"
    chosen = claim.scale("small").overrides("30m_large", "soap")
    assert (chosen["data"], chosen["data.files"]) == ("local", ["a.jsonl", "b.jsonl"])
    assert (chosen["batch.tokens"], chosen["optimizer.lr"]) == (131072, 0.5)
    assert claim.scale("small").overrides("30m_large", "adamw")["optimizer.lr"] == 2e-3
    assert claim.scale("small").may_say.endswith("On data=local, not on the corpus of the claim.")
    other = Plan("small", [], ["data=local", "data.files=c.jsonl"], {}, 0, [])
    with pytest.raises(ValueError, match="was written for other --data"):
        other.find("soap_40_35", Folder(tmp_path), [])


def test_every_stage_is_a_claim_and_its_arms():
    for stage in STAGES:
        scale = Plan("small", [], [], {}, 0, []).find(stage.claim, Folder("nowhere"), []).claim.scale("small")
        assert set(stage.arms) <= set(scale.arms)
