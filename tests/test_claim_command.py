"""What the claims' command prints, reads and trains."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from conventions.config_keys import CONFIGS
from harness.config import parse
from harness.probe import Probes
from harness.sweep import planned as sweep_planned
from harness.sweep.planned import SweepEnding
from judge.claims.claim_file import find_claim, list_claims, read_claim
from judge.claims.tables import render
from judge.claims.words import as_json
from judge.records import read_run
from judge.tuning.trials import tuning_of
from scripts.claims import main
from scripts.pages.claim_table import show
from scripts.study import claim_runs
from scripts.study.claim_runs import compose_arm
from scripts.study.run_cost import cost_of
from tests.claimed import OTHER, SPEEDUP, change, scale, train, verified, write_claim
from tests.command import trained
from tests.tuned import Pretended


def test_the_tables(tmp_path):
    figures = [{"part": "big", "arm": "old", "quantity": "loss", "value": 2.921, "recalled": True}]
    quantities = {"loss": {"metric": "val/loss", "title": "loss_of_val", "digits": 3}}
    scales = {"tiny": scale(parts={"only": {"beside": "big"}})}
    path = write_claim(tmp_path, scales, quantities=quantities, figures=figures)
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    verdict = verified(path, "tiny", tmp_path)
    ours = verdict.arms["only"]["old"].losses(2000)
    estimate = verdict.findings[0].main.estimate
    interval = f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"

    text = render(verdict, "markdown")
    assert f"| only | old | 9/9 | {ours.mean():.4f} ± {ours.std(ddof=1):.4f} | 2.921* | {ours.mean():.3f} ± " in text
    assert f"| only | twice as fast | ≥ 1.5 in steps, less 10 % | {interval} |" in text
    assert text.rstrip().endswith("| reproduced |") is False
    assert "- only: reproduced\n" in text
    assert "no more than this" in text
    assert "- * recalled, not found in a source" in text
    table = [line.count("|") for line in text.splitlines() if line.startswith("| only | ")]
    assert len(set(table[:2])) == 1

    latex = render(verdict, "latex")
    assert r"loss\_of\_val, paper" in latex
    assert r"$\geq$ 1.5 in steps, less 10 \%" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2

    rows = list(csv.DictReader(io.StringIO(render(verdict, "csv"))))
    (cell,) = [row for row in rows if (row["kind"], row["name"]) == ("arm", "old")]
    assert (cell["paper"], cell["recalled"]) == ("2.921", "true")
    assert float(cell["ours"]) == pytest.approx(ours.mean(), rel=1e-5)
    by_axis = {row["quantity"]: row for row in rows if row["kind"] == "statement"}
    assert [row["verdict"] for row in by_axis.values()] == ["reproduced", "", ""]
    assert float(by_axis["steps"]["low"]) == pytest.approx(estimate.low, rel=1e-5)

    parsed = json.loads(json.dumps(as_json(verdict), allow_nan=False))
    assert parsed["verdicts"] == {"only": "reproduced"}
    assert parsed["statements"][0]["measured"][0]["value"] == pytest.approx(estimate.value)


def test_what_others_measured_stands_below_ours(tmp_path):
    others = [OTHER, {"source": "A_B", "says": "so it is", "recalled": True, "beside": "twice*", "high": 2.0},
              {"source": "C", "says": "no number"}]  # fmt: skip
    path = write_claim(tmp_path, others=others)
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    verdict = verified(path, "tiny", tmp_path)
    text = render(verdict, "markdown")
    assert "| it is slower there | elsewhere | 0.5 to 0.75 in steps | Somebody |" in text
    assert "| so it is |  | below 2 in steps* | A_B |" in text
    assert "| no number |  |  | C |" in text
    assert text.index("| only | twice as fast |") < text.index("what others measured") < text.index("- only: rep")
    assert "- * recalled, not found in a source" in text
    assert f"`python -m scripts.claims run {path} --scale tiny` makes the runs again" in text
    assert r"A\_B \\" in render(verdict, "latex")
    rows = [row for row in csv.DictReader(io.StringIO(render(verdict, "csv"))) if row["kind"] == "other"]
    cells = [(row["source"], row["name"], row["quantity"], row["low"], row["high"], row["recalled"]) for row in rows]
    assert cells == [("Somebody", "twice as fast", "steps", "0.5", "0.75", "false"),
                     ("A_B", "twice as fast", "steps", "", "2", "true")]  # fmt: skip
    assert [each["beside"] for each in as_json(verdict)["others"]] == [["twice as fast"]] * 2 + [[]]
    console = Console(file=io.StringIO(), width=200)
    show(verdict, console)
    shown = console.file.getvalue()
    assert "What others measured\n- Somebody, elsewhere: 0.5 to 0.75 in steps. it is slower there\n" in shown
    path = write_claim(tmp_path)
    for form in ("markdown", "latex", "csv"):
        assert "Somebody" not in render(verified(path, "tiny", tmp_path), form)


def test_a_claim_is_called_by_its_name_or_by_its_files_path(tmp_path):
    root = CONFIGS.parent
    assert find_claim("sophia_2x").word == "sophia_2x"
    assert replace(find_claim("sophia_2x"), path=root / "results/x.yaml").word == "results/x.yaml"
    assert replace(find_claim("sophia_2x"), path=tmp_path / "x.yaml").word == str(tmp_path / "x.yaml")


def test_the_same_folders_give_the_same_bytes(tmp_path):
    path = write_claim(tmp_path)
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    for form in ("markdown", "latex", "csv"):
        assert render(verified(path, "tiny", tmp_path), form) == render(verified(path, "tiny", tmp_path), form)


def test_parts_of_a_claim_across_parts_decide_nothing_alone(tmp_path, capsys):
    statement = {**SPEEDUP, "arm": "large/new", "against": "large/old", "than": ["small/new", "small/old"]}
    parts = {"small": {}, "large": {"config": {"batch.tokens": 8192}}}
    path = write_claim(tmp_path, {"tiny": scale(parts=parts)}, statements=[statement])
    train(read_claim(path), "tiny", tmp_path)
    main(["verify", str(path), "--runs", str(tmp_path), "--part", "large"])
    out = capsys.readouterr().out
    assert "These parts alone decide nothing" in out
    assert "underpowered" not in out.partition("The runs")[2].partition("What a verdict")[0]
    main(["verify", str(path), "--runs", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["verdicts"] == {"": "underpowered"}


def test_verify_reads_folders_without_torch_and_hydra(tmp_path):
    path = write_claim(tmp_path)
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    program = f"""
import sys
sys.modules["torch"] = sys.modules["hydra"] = None  # whoever imports them fails
from scripts.claims import main
for command in ("verify", "table"):
    main([command, {str(path)!r}, "--runs", {str(tmp_path)!r}])
main(["list"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "only: reproduced" in done.stdout
    assert all(claim.name in done.stdout for claim in list_claims())


@pytest.fixture
def probes():
    known = Probes()
    known.speeds["gpt2_pico"] = 1e12
    return known


def test_a_plan_counts_a_product_in_the_gradients_pass(here, probes):
    assert trained("optimizer=adahessian", "optimizer.every=2", "steps=4", run_dir="out") == "finished"
    config = parse(yaml.safe_load((here / "out" / "config.yaml").read_text()))
    planned, run = cost_of(config, probes)(4), read_run(here / "out")
    assert (planned.model, planned.curvature) == (run.last("flops/model"), run.last("flops/curvature"))
    assert planned.curvature > 0


@pytest.mark.parametrize("optimizer", ["kfac optimizer.skip_layers=[up,transform]", "sophia_g optimizer.every=2"])
def test_a_plan_knows_what_an_optimizer_asks_of_a_bert(here, probes, optimizer):
    """It leaves out layers that no other family has, and samples labels at every token, not the masked ones alone."""
    probes.speeds["bert_pico"] = 1e12
    bert = ["model=bert_pico", *f"optimizer={optimizer}".split(), "steps=2", "context=16"]
    assert trained(*bert, "batch.tokens=64", "eval.tokens=64", run_dir="out") == "finished"
    config = parse(yaml.safe_load((here / "out" / "config.yaml").read_text()))
    planned, run = cost_of(config, probes)(2), read_run(here / "out")
    assert (planned.model, planned.curvature) == (run.last("flops/model"), run.last("flops/curvature"))
    assert planned.seconds is not None


@pytest.mark.slow
def test_run_trains_what_is_missing_as_planned(here, probes, capfd, monkeypatch):
    """train.py's own sweep trains the smoke, and then what it left; the costs are those that plan foretold."""
    small = {"eval.tokens": 256, "eval.every": 4, "log.every": 4, "checkpoint.every": None, "batch.tokens": 256}
    arms = {
        "old": {"config": {"optimizer": "adamw"}, "lengths": [0.5, 1]},
        "new": {"config": {"optimizer": "sophia_h", "optimizer.every": 2, "optimizer.share": 0.5}},
        "far": {"config": {"optimizer": "external", "optimizer._target_": "torch.optim.Adam"}},
    }
    keys = scale(arms=arms, steps=8, seeds=[4, 5], config={"experiment": "scale_tiny", **small})
    statement = {"says": "so", "measure": "value", "quantity": "loss", "arm": "new", "at_least": 0.0}
    quantities = {"loss": {"metric": "val/loss", "title": "loss"}}
    path = write_claim(here, {"tiny": keys}, statements=[statement], quantities=quantities)
    claim = read_claim(path)
    assert ended(["run", str(path), "--part", "only", "--smoke"]) == 0
    assert "twice, scale tiny: 4 of 4 runs to do" in capfd.readouterr().out
    runs = [read_run(each.parent) for each in (here / "results/runs/twice-tiny-only").rglob("manifest.json")]
    assert sorted((run.steps, run.seed, run.status) for run in runs) == [(4, 4, "finished")] + 3 * [(8, 4, "finished")]
    for arm in ("old", "new"):
        config = parse(compose_arm(claim, "tiny", "only", arm))
        cost = cost_of(config, probes)(8)
        (run,) = [run for run in runs if run.optimizer == config.optimizer["name"] and run.steps == 8]
        assert (cost.model, cost.curvature) == (run.last("flops/model"), run.last("flops/curvature"))
        assert cost.tokens == run.last("tokens")

    hooked = cost_of(replace(config, optimizer={"name": "kfac", "lr": 0.1}), probes)(8)
    assert hooked.curvature == 0
    assert hooked.optimizer > 0

    swept = []

    def interrupted(runs, study, overrides, seconds):
        swept.append(([run.name for run in runs], overrides, seconds))
        return SweepEnding(study, 3, False, {})

    monkeypatch.setattr(sweep_planned, "sweep_runs", interrupted)
    assert ended(["run", str(path), "--seeds", "2", "launcher=local"]) == 3
    assert "twice, scale tiny: 4 of 8 runs to do" in capfd.readouterr().out
    names = [f"twice-only-{name}-s5" for name in ("old-T8", "new-T8", "far-T8", "old-T4")]
    assert swept == [(names, ["launcher=local"], None)]
    main(["verify", str(path)])
    out = capfd.readouterr().out
    assert "only: underpowered" in out
    assert "not run yet: old (only) for 4 and 8 updates, seed 5" in out


def test_a_study_needs_the_plan_of_its_claim_as_it_is(tmp_path):
    path = write_claim(tmp_path)
    (first, *_) = train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    command = rf"python -m scripts.claims plan {path} --scale tiny --runs {tmp_path} writes it"
    plan = first.parent / "plan.yaml"
    text = plan.read_text()
    plan.write_text(text.replace("optimizer.lr: 0.01", "optimizer.lr: 0.02", 1))
    with pytest.raises(ValueError, match=rf"\(new's optimizer.lr 0.02, not 0.01\): {command} anew"):
        verified(path, "tiny", tmp_path)
    plan.write_text("arms: [")
    with pytest.raises(ValueError, match=rf"plan.yaml, line 1, is broken .*: {command} anew"):
        verified(path, "tiny", tmp_path)
    plan.unlink()
    with pytest.raises(ValueError, match=rf"plan.yaml is not there, which says what each arm's runs are: {command}"):
        verified(path, "tiny", tmp_path)
    claim = read_claim(path)
    asked = claim_runs.ClaimRuns(claim, "tiny", ["only"], [0, 1, 2], place=tmp_path)
    asked.write(asked.plans())
    assert plan.read_text() == text
    assert verified(path, "tiny", tmp_path).words == {"only": "reproduced"}


def test_a_call_of_some_minutes_begins_with_what_tells_most_and_goes_on(here, monkeypatch, capsys):
    """The trials of the rates, then seed by seed: the arms at T, the rungs of the ladder; a failure comes last."""
    arms = {**scale()["arms"], "more": {"config": {"optimizer": "lion"}}}
    keys = scale(arms={"more": arms.pop("more"), **arms}, seeds=[0, 1], rate_trials=2)
    path, begun = write_claim(here, {"tiny": keys}), []
    pretended = Pretended(optimum=0.01)

    def sweep(runs, study, overrides, seconds):
        begun.append([run.name.removeprefix("twice-only-") for run in runs])
        assert {run.config["checkpoint"]["every"] for run in runs} == {250}
        assert 0 < seconds <= 60
        for run in runs[:3] if len(begun) == 2 else runs:
            pretended.write(run)
        (runs[0].folder / "checkpoints").mkdir()
        return SweepEnding(study, 130, len(begun) == 2, {})

    monkeypatch.setattr(sweep_planned, "sweep_runs", sweep)
    corpus = SimpleNamespace(fingerprint="abc")  # as the manifests say
    monkeypatch.setattr(claim_runs, "check_data", lambda section: lambda: corpus)
    line = ["run", str(path), "--minutes", "1"]
    with pytest.raises(SystemExit, match="130"):
        main(line)
    assert len(begun[0]) == 6
    assert all(name.startswith("rates-") for name in begun[0])
    with pytest.raises(SystemExit, match="0"):
        main(line)
    assert "the time is over, 7 runs are left: the same command goes on" in capsys.readouterr().out
    one = ["old-T2000-s0", "new-T2000-s0", "more-T2000-s0", "old-T1000-s0", "old-T4000-s0"]
    assert sorted(begun[1][:2]) == sorted(one[:2])
    assert begun[1] == [*begun[1][:2], *one[2:], *(name.replace("s0", "s1") for name in begun[1][:2]),
                        *(name.replace("s0", "s1") for name in one[2:])]  # fmt: skip
    (trained,) = here.glob("results/runs/twice-tiny-only/*soap*")
    assert not (trained / "checkpoints").exists()
    change(trained, "manifest.json", status="failed")
    with pytest.raises(SystemExit, match="130"):
        main(line)
    assert begun[2] == [*begun[1][3:], "new-T2000-s0"]
    corpus.fingerprint = "another"
    with pytest.raises(SystemExit, match="2"):
        main(line)
    assert "was trained on other tokens than this machine prepares now" in capsys.readouterr().err
    verdict = verified(path, "tiny", here / "results/runs", 2)
    assert verdict.scale.arms["new"].trials == 2
    assert verdict.scale.arms["new"].note.startswith("the best of 2 settings of its rates at 1,000 updates")
    (tuning,) = (each["soap"] for each in map(tuning_of, here.glob("results/runs/rates-*-tuning")) if "soap" in each)
    assert verdict.arms["only"]["new"].settings["optimizer.lr"] == tuning.trials[0].settings["optimizer.lr"]
    assert tuning.trials[0].loss < tuning.trials[1].loss


def test_an_option_that_is_none_is_refused(tmp_path, capsys):
    for command in ("verify", "run"):
        assert ended([command, str(write_claim(tmp_path)), "--fast"]) == 2
        assert "unrecognized arguments: --fast" in capsys.readouterr().err


def ended(arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    return raised.value.code
