"""bench_suite's claims: their order, the rates that come first, what is begun in a call, and another corpus."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from harness.claims.claim_file import find_claim
from harness.claims.planned import composed
from harness.records import find_runs, read_run
from harness.tuning.trials import tuning_of
from scripts import bench_suite
from scripts.study.training import Training
from scripts.suite import claims as suite_claims
from scripts.suite import corpus, rates
from scripts.suite.claim_plan import STAGES, Plan, check_data
from scripts.suite.folder import Folder
from scripts.suite.pace import GUESS, MARGIN, START, Pace, note_starts
from scripts.suite.training import Job
from tests.claimed import change, train
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


def test_a_later_run_of_the_stage_is_taken_where_the_first_does_not_fit():
    def job(name, kind, stage, left, tokens=100):
        return Job(name, kind, stage, left, tokens, str)

    long, short, later = job("long", "slow", 0, 4000), job("short", "fast", 0, 1000), job("later", "fast", 1, 10)
    pace = Pace({"slow": 1.0, "fast": 0.01}, 0.01, {"slow": {"first": 9.0}, "fast": {"first": 5.0, "next": 1.0}})
    assert suite_claims.choose([long, short, later], pace, 100, begun=True) == [short]
    assert suite_claims.choose([short, later], pace, 100, begun=True) == [short, later]
    assert suite_claims.choose([long], pace, 250 * MARGIN + 9, begun=True) == [long]
    assert suite_claims.choose([long], pace, 250 * MARGIN + 8, begun=True) == []
    assert pace.seconds(short, first=False) == 1 + MARGIN * 10
    other = job("other", "new", 0, 10, tokens=300)
    assert pace.seconds(other, first=True) == 9 + MARGIN * 10 * GUESS * 0.01 * 300
    assert suite_claims.choose([other], pace, 10, begun=True) == [other]


def test_the_pace_is_of_the_newest_run_and_a_start_is_told_apart(tmp_path):
    runs = []
    for seed, (hour, seconds) in enumerate({"03": 0.3, "01": 0.1, "02": 0.2}.items()):
        place = write_run(tmp_path, seed=seed, steps=100, seconds_per_step=seconds)
        change(place, "manifest.json", started=f"2026-01-01T{hour}:00:00Z", ended=f"2026-01-01T{hour}:01:40Z")
        runs.append(("kind", read_run(place)))
    cut = write_run(tmp_path, seed=9, steps=100, status="running", until=50, seconds_per_step=9.0)
    runs.append(("kind", read_run(cut)))
    pace = Pace.of(runs, {})
    between = 0.01 + 0.002 + 0.001  # evaluation, checkpoints and logging, of an update
    assert pace.updates == {"kind": pytest.approx(0.3 + between)}
    assert pace.per_token == pytest.approx((0.3 + between) / 1024)
    assert Pace.of(runs[-1:], {}).updates == {"kind": pytest.approx(9 + between)}  # for want of one that ended
    starts = {"kind": {"next": 7.0}}
    begun = datetime(2026, 1, 1, 1, tzinfo=UTC).timestamp()
    note_starts(starts, runs[1:2], begun)
    assert starts == {"kind": {"first": pytest.approx(100 - 10 - 100 * between, abs=0.1), "next": 7.0}}
    change(runs[2][1].folder, "manifest.json", resumes=[{"at": "now"}])
    note_starts(starts, [("other", read_run(runs[2][1].folder))], begun)
    assert list(starts) == ["kind"]  # the clock of what went on goes back further


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


def test_rates_are_known_by_their_names():
    section = {"name": "x", "adamw_lr": 1e-3, "lr": 2, "lr_decay": 0.5, "color": 1.0, "my_lr": None, "no_lr": 0.0}
    assert list(rates.rates_of(section).items()) == [("optimizer.lr", 2.0), ("optimizer.adamw_lr", 1e-3)]


def test_what_a_note_says_beside_the_rates_stays():
    scale = {"arms": {"new": {"note": "a guess; power 1/4"}, "old": {}}, "parts": {"a": {}, "b": {}}}
    for part in scale["parts"]:
        rates.put(scale, part, "new", {"optimizer.lr": 1.0}, 4, "the best of 4")
    rates.put(scale, "a", "old", {"optimizer.lr": 1.0}, 0, "by hand")
    assert [arm["note"] for arm in scale["arms"].values()] == ["the best of 4; power 1/4", "by hand"]
    rates.put(scale, "b", "new", {"optimizer.lr": 1.0}, 4, "the best of 4", ["optimizer.lr"])
    assert scale["arms"]["new"]["note"] == "the best of 4, lr (b) at an end of what was tried; power 1/4"
    assert scale["arms"]["new"]["at_an_end"] == ["lr (b)"]


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


def test_an_arm_names_what_its_trials_are_about(tmp_path):
    claim = find_claim("mkor")
    sweep = rates.Sweep.of(claim, "small", "30m", "kfac", 4)
    assert sweep.about == "damping and kl_clip"
    damping, clip = sweep.tuner.space.values()
    assert (damping.low, damping.high) == (1e-4, 1e-1)  # of configs/tuning.yaml
    assert (clip.low, clip.high) == (1e-3 / 4, 1e-3 * 4)
    settings = [each.values["optimizer"] for each in sweep.trials]
    assert len({each["damping"] for each in settings}) == len({each["kl_clip"] for each in settings}) == 4
    assert {each["lr"] for each in settings} == {0.1}
    assert rates.Sweep.of(claim, "small", "30m", "lamb", 4).about == "its rates"
    claim.scale("small").arms["kfac"].sweep[:] = ["optimizer.method"]
    with pytest.raises(ValueError, match=r"arms.kfac.sweep: optimizer.method is eigen: name keys"):
        rates.Sweep.of(claim, "small", "30m", "kfac", 4)


def test_where_all_trials_diverge_the_claims_own_rate_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = rates.Sweep.of(find_claim("muon_2x"), "small", "30m", "adamw", 2)
    for each in sweep.trials:
        assert sweep.row("30m", "adamw") is None
        Pretended(limit=0.0).write(each)
    row = sweep.row("30m", "adamw")
    assert row["rates"] == {"optimizer.lr": 2e-3}
    assert (row["diverged"], row["loss"], row["at_an_end"]) == (2, None, [])
    assert "diverged; " in rates.table([row])


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


def test_a_claim_on_another_corpus_is_a_file_of_its_own(tmp_path):
    data = check_data(["data=local", "data.files=[a.jsonl,b.jsonl]", "eval.tokens=1000"])
    claim = Plan("small", [], data, {"soap": 0.5}, 0, []).find("soap_40_35", Folder(tmp_path), []).claim
    assert claim.name == "soap_40_35.local"
    chosen = claim.scale("small").overrides("30m_large", "soap")
    assert (chosen["data"], chosen["data.files"]) == ("local", ["a.jsonl", "b.jsonl"])
    assert (chosen["batch.tokens"], chosen["optimizer.lr"]) == (131072, 0.5)
    assert claim.scale("small").overrides("30m_large", "adamw")["optimizer.lr"] == 2e-3
    assert claim.scale("small").may_say.endswith("On data=local, not on the corpus of the claim.")


def test_a_corpus_may_be_corrected_until_it_has_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong, right = (Plan("small", [], ["data=local", f"data.files={name}"], {}, 0, []) for name in ("c.txt", "d.txt"))
    found = wrong.find("soap_40_35", Folder(tmp_path), [])
    assert not found.claim.path.exists()  # until the corpus is there
    found.write()
    assert right.find("soap_40_35", Folder(tmp_path), []).claim.scale("small").config["data.files"] == "d.txt"
    train(found.claim, "small", Path("results/runs"))
    with pytest.raises(ValueError, match=r"soap_40_35.local.yaml was written for other --data"):
        right.find("soap_40_35", Folder(tmp_path), [])
    wrong.find("soap_40_35", Folder(tmp_path), [])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (["data=nowhere"], "--data: the arm sgd of tiny/pico: data=nowhere is not there"),
        (["data=local", "data.files=none-*.txt"], "--data: data.files: there is no file at none-*.txt"),
        (["data=local", "data.files=a.txt", "data.tokenizer=bytes", "data.val_share=0.5", "eval.tokens=65536"],
         "--data: eval.tokens asks for 512 windows"),
    ],
)  # fmt: skip
def test_a_corpus_is_looked_at_before_anything_is_written(tmp_path, monkeypatch, capsys, data, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("".join(f"line {i} of a text\n" for i in range(3000)))
    line = ["--part", "claims", "--device", "cpu", "--scale", "tiny", "--output", "device", "--only", "adahessian_lm"]
    with pytest.raises(SystemExit, match="2"):
        bench_suite.main([*line, "--set", f"data.dir={tmp_path / 'cache'}", "--data", *data])
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.yaml"))
    assert not (tmp_path / "results").exists()


def test_runs_on_other_tokens_and_of_another_device_are_refused(tmp_path):
    run = read_run(write_run(tmp_path / "study"))
    key = corpus.section(run.config)
    corpus.refuse_others([run], {key: "abc", "another": "xyz"}, "NVIDIA H100")
    with pytest.raises(ValueError, match=r"was trained on other tokens than --data prepares now"):
        corpus.refuse_others([run], {key: "xyz"}, None)
    with pytest.raises(ValueError, match=r"is of the device NVIDIA H100 and not of NVIDIA H200"):
        corpus.refuse_others([run], {}, "NVIDIA H200")


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
