"""Verdicts on claims, of run folders whose truth is known."""

import io
import shutil

import numpy as np
import pytest
import yaml
from rich.console import Console

from judge.claims.claim_file import read_claim
from judge.claims.tables import render
from scripts.pages.claim_table import show
from tests.claimed import SPEEDUP, change, scale, train, verified, write_claim

CPU = {"device.type": "cpu", "device.name": "Xeon"}


@pytest.mark.parametrize(
    ("name", "true", "noise", "seeds", "word"),
    [
        ("paper", 1.5, 0.002, 3, "reproduced"),
        ("tiny", 1.5, 0.002, 3, "reproduced"),
        ("paper", 1.1, 0.002, 3, "refuted"),
        ("tiny", 1.1, 0.002, 3, "not seen at this scale"),
        ("paper", 1.35, 0.02, 3, "underpowered"),
        ("tiny", 1.1, 0.002, 1, "underpowered"),
        ("paper", 3.0, 0.002, 3, "reproduced"),
        ("paper", 0.3, 0.002, 3, "refuted"),
    ],
)
def test_the_four_verdicts(tmp_path, name, true, noise, seeds, word):
    path = write_claim(tmp_path)
    train(read_claim(path), name, tmp_path, {"new": true}, seeds, noise=noise)
    verdict = verified(path, name, tmp_path, seeds)
    assert verdict.words == {"only": word}
    estimate = verdict.findings[0].main.estimate
    if 0.5 < true < 2:
        assert estimate.value == pytest.approx(true, rel=0.15)
    if seeds == 3 and 0.5 < true < 2 and noise < 0.01:
        assert estimate.low < true < estimate.high
    assert list(verdict.findings[0].measured) == ["steps", "flops", "seconds"]


def test_the_tolerance_decides_what_is_close_enough(tmp_path):
    for tolerance, word in {0.0: "underpowered", 0.2: "reproduced"}.items():
        path = write_claim(tmp_path / str(tolerance), statements=[{**SPEEDUP, "tolerance": tolerance}])
        train(read_claim(path), "paper", tmp_path / str(tolerance), {"new": 1.5}, noise=0.005)
        assert verified(path, "paper", tmp_path / str(tolerance)).words == {"only": word}


@pytest.mark.parametrize(("steps", "split"), [(1000, 10_000_000), (2000, 700_000)])
def test_a_papers_own_protocol_is_exempt_from_the_guard_for_small_runs(tmp_path, steps, split):
    path = write_claim(tmp_path, {"paper": scale(steps=steps), "tiny": scale(steps=steps)})
    claim = read_claim(path)
    for name, word in {"paper": "reproduced", "tiny": "underpowered"}.items():
        train(claim, name, tmp_path, {"new": 1.5}, noise=0.002, manifest={"data.train_tokens": split})
        verdict = verified(path, name, tmp_path)
        assert verdict.words == {"only": word}
        assert any("runs too small for a verdict" in note for note in verdict.notes) == (name == "tiny")


def test_a_verdict_is_of_t_and_of_no_shorter_run(tmp_path):
    """An arm of which only T / 2 has finished yet would, by that, be as fast as was claimed."""
    arms = scale()["arms"]
    arms["new"]["lengths"] = [0.5, 1]
    path = write_claim(tmp_path, {"paper": scale(arms=arms)})
    for run in train(read_claim(path), "paper", tmp_path, {"new": 1.6}, noise=0.001):
        if "-new-T2000-" in run.name:
            change(run, "manifest.json", status="running")
    verdict = verified(path, "paper", tmp_path)
    assert verdict.words == {"only": "underpowered"}
    assert "no finished run of new" in verdict.notes


def test_seconds_of_a_cpu_decide_nothing_and_are_shown(tmp_path):
    path = write_claim(tmp_path, statements=[{**SPEEDUP, "axis": "seconds"}])
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002, manifest=CPU)
    verdict = verified(path, "tiny", tmp_path)
    assert verdict.words == {"only": "underpowered"}
    assert verdict.findings[0].main.estimate.value == pytest.approx(1.5, rel=0.05)
    assert any("CPU that others may share" in note for note in verdict.notes)


def test_the_reverse_rule_reads_the_newcomers_ladder(tmp_path):
    new = {"config": {"optimizer": "soap"}, "lengths": [0.5, 0.75, 1]}
    arms = {"old": {"config": {"optimizer": "adamw"}}, "new": new}
    path = write_claim(tmp_path, {"tiny": scale(arms=arms)}, statements=[{**SPEEDUP, "rule": "reverse"}])
    train(read_claim(path), "tiny", tmp_path, {"new": 1.6}, noise=0.002, costs={"new": 1.25e9})
    finding = verified(path, "tiny", tmp_path).findings[0]
    assert finding.verdict == "reproduced"
    assert finding.main.estimate.value == pytest.approx(1.6, rel=0.03)
    assert finding.measured["flops"].estimate.value == pytest.approx(finding.main.estimate.value / 1.25)


def test_quantities_by_value_difference_and_ratio(tmp_path):
    """They equal those of numpy and of Student's and Welch's t, on numbers that every row carries."""
    quantities = {
        "loss": {"metric": "val/loss", "title": "loss"},
        "clipped": {"metric": "gradient/clipped", "title": "clipped", "scale": 100},
        "cost": {"metric": "flops/total", "title": "FLOPs", "per_step": True},
        "perplexity": {"metric": "val/loss", "title": "perplexity", "exponential": True},
    }
    pair = {"arm": "new", "against": "old", "says": "so"}
    statements = [
        {"says": "often", "measure": "value", "quantity": "clipped", "arm": "old", "at_least": 10},
        {"says": "seldom", "measure": "value", "quantity": "clipped", "arm": "old", "at_most": 10},
        {**pair, "measure": "ratio", "quantity": "cost", "at_most": 1.05},
        {**pair, "measure": "ratio", "quantity": "cost", "at_most": 1.0, "tolerance": 0.04},
        {**pair, "measure": "difference", "quantity": "loss", "at_most": 0.0},
        {**pair, "measure": "ratio", "quantity": "perplexity", "at_most": 1.0},
    ]
    path = write_claim(tmp_path, statements=statements, quantities=quantities)
    shares = {0: 0.2, 1: 0.22, 2: 0.27}
    train(read_claim(path), "paper", tmp_path, {"new": 1.5}, costs={"new": 1.05e9}, noise=0.002,
          rows=lambda arm, seed: {"gradient/clipped": shares[seed]})  # fmt: skip
    verdict = verified(path, "paper", tmp_path)
    words = ["reproduced", "refuted", "reproduced", "refuted", "reproduced", "reproduced"]
    assert [each.verdict for each in verdict.findings] == words
    value, _, cost, _, difference, ratio = (each.main.estimate for each in verdict.findings)
    sample = np.array([20, 22, 27])
    wide = 4.302653 * sample.std(ddof=1) / np.sqrt(3)  # Student's t at 2 degrees of freedom
    assert (value.value, value.low, value.high) == pytest.approx((23, 23 - wide, 23 + wide))
    assert (cost.value, cost.low, cost.high) == pytest.approx((1.05, 1.05, 1.05))
    losses = {arm: verdict.arms["only"][arm].losses(2000) for arm in ("old", "new")}
    assert difference.value == pytest.approx(losses["new"].mean() - losses["old"].mean())
    means = [np.log(np.exp(losses[arm])).mean() for arm in ("new", "old")]
    assert ratio.value == pytest.approx(np.exp(means[0] - means[1]))
    assert difference.low < difference.value < difference.high < 0


def test_a_quantity_of_learning_is_guarded_and_one_of_a_step_is_not(tmp_path):
    quantities = {"loss": {"metric": "val/loss", "title": "loss"},
                  "cost": {"metric": "flops/total", "title": "FLOPs", "per_step": True}}  # fmt: skip
    pair = {"arm": "new", "against": "old", "says": "so", "at_most": 1.0}
    statements = [{**pair, "measure": "ratio", "quantity": each} for each in quantities]
    path = write_claim(tmp_path, {"tiny": scale(steps=100)}, statements=statements, quantities=quantities)
    train(read_claim(path), "tiny", tmp_path, {"new": 1.9}, noise=0.002)
    assert [each.verdict for each in verified(path, "tiny", tmp_path).findings] == ["underpowered", "reproduced"]


def test_across_parts_one_speed_up_is_held_against_another(tmp_path):
    statement = {**SPEEDUP, "arm": "large/new", "against": "large/old", "than": ["small/new", "small/old"],
                 "at_least": 1.25}  # fmt: skip
    parts = {"small": {}, "large": {"config": {"batch.tokens": 8192}}}
    path = write_claim(tmp_path, {"tiny": scale(parts=parts)}, statements=[statement, SPEEDUP])
    train(read_claim(path), "tiny", tmp_path, {"small/new": 1.2, "large/new": 1.7}, noise=0.001)
    verdict = verified(path, "tiny", tmp_path)
    assert verdict.words == {"": "reproduced"}
    first, *others = (each.main.estimate for each in verdict.findings)
    assert first.value == pytest.approx(1.7 / 1.2, rel=0.05)
    assert np.log(first.high / first.value) > np.log(others[1].high / others[1].value)
    assert verdict.warnings == []


def test_across_parts_what_is_meant_to_differ_is_a_footnote(tmp_path):
    quantities = {"loss": {"metric": "val/loss", "title": "loss"}}
    statement = {"says": "so", "measure": "difference", "quantity": "loss", "arm": "thin/new", "against": "wide/old",
                 "at_most": 0.0}  # fmt: skip
    parts = {"thin": {"arms": {"new": None}}, "wide": {"config": {"model.width": 128}, "arms": {"old": {}}}}
    path = write_claim(tmp_path, {"paper": scale(parts=parts)}, statements=[statement], quantities=quantities)
    paths = train(read_claim(path), "paper", tmp_path, {"new": 1.9}, noise=0.001)
    assert len(paths) == 3 + 9
    verdict = verified(path, "paper", tmp_path)
    assert (verdict.words, verdict.warnings) == ({"": "reproduced"}, [])
    assert "thin/new and wide/old are compared across parts, which differ in model.width" in verdict.footnotes
    for run in paths:
        if run.parent.name.endswith("thin"):
            change(run, "manifest.json", data__fingerprint="other")
    warnings = verified(path, "paper", tmp_path).warnings
    assert warnings == ["data.fingerprint differs: abc for wide/old, other for thin/new"]


def test_what_went_wrong_is_said_and_decides_nothing(tmp_path):
    path = write_claim(tmp_path)
    runs = train(read_claim(path), "paper", tmp_path, {"new": 1.5}, noise=0.002)
    assert verified(path, "paper", tmp_path).footnotes == []
    old, new = ([run for run in runs if f"-{arm}-" in run.name] for arm in ("old", "new"))
    for file in new[0].iterdir():
        file.unlink()
    new[0].rmdir()
    change(new[1], "manifest.json", status="diverged", error="the loss is NaN")
    change(old[0], "manifest.json", status="running")
    change(old[1], "manifest.json", git__dirty=True, device__name="NVIDIA A100")
    change(old[2], "config.yaml", optimizer__lr=0.5)
    verdict = verified(path, "paper", tmp_path)
    assert verdict.words == {"only": "underpowered"}
    notes = "\n".join(verdict.notes)
    assert "not run yet: old (only) for 1,000 updates, seed 2" in notes
    assert "not run yet: new (only) for 2,000 updates, seed 0" in notes
    assert "diverged at step 2000 of 2000: the loss is NaN" in notes
    assert "1 of the 2 runs of new diverged: the others alone decide nothing" in notes
    assert "was cut off at step 1000 of 1000: resume=true goes on with it" in notes
    assert "uncommitted changes" in notes
    assert "unlike hardware" in notes
    assert "is of no arm of the claim and left out: nearest is old, but its optimizer.lr is 0.5 and not 0.0006" in notes
    text = render(verdict, "markdown")
    assert "| only | new | 1/3 (1 diverged) |" in text


def test_mismatches_and_unequal_tuning_stand_on_top(tmp_path):
    arms = scale()["arms"]
    arms["old"] |= {"trials": 14}
    arms["new"]["config"] |= {"schedule.final": 0.5, "schedule.warmup": 7, "grad_clip": None}
    path = write_claim(tmp_path, {"tiny": scale(arms=arms)})
    for run in train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002):
        if "-new-" in run.name:
            change(run, "manifest.json", resolved__dtype="float32", ranks=2)
    verdict = verified(path, "tiny", tmp_path)
    assert set(verdict.warnings) == {
        "schedule.final differs: 0.01 for old, 0.5 for new",
        "schedule.warmup differs: 0.1 for old, 7 for new",
        "grad_clip differs: 1 for old, null for new",
        "dtype differs: bfloat16 for old, float32 for new",
        "ranks differs: 1 for old, 2 for new",
        "unequal tuning: old is the best of 14 trials, new of 0",
    }
    console = Console(file=io.StringIO(), width=120)
    show(verdict, console)
    shown = console.file.getvalue()
    assert shown.index("warning: grad_clip") < shown.index("The runs")


def test_runs_on_other_tokens_within_a_part_are_refused(tmp_path):
    path = write_claim(tmp_path)
    runs = train(read_claim(path), "tiny", tmp_path)
    change(runs[0], "manifest.json", data__fingerprint="other")
    with pytest.raises(ValueError, match=r"cannot be compared, data\.fingerprint is"):
        verified(path, "tiny", tmp_path)


def test_on_which_machine_a_run_was_computed_does_not_make_it_another_arms(tmp_path):
    path = write_claim(tmp_path)
    for run in train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002):
        change(run, "config.yaml", device="cuda", batch__micro=4, tracker={"name": "wandb"}, study="elsewhere")
    assert verified(path, "tiny", tmp_path).words == {"only": "reproduced"}


def test_a_seed_is_one_sample_on_however_many_machines_it_ran(tmp_path):
    path = write_claim(tmp_path)
    runs = train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    for run in runs:
        if "-s2" in run.name:
            shutil.rmtree(run)
        elif "-s1" in run.name:
            copy = run.with_name(run.name + "-again")
            shutil.copytree(run, copy)
            change(copy, "config.yaml", compile=True, batch__micro=4)
    verdict = verified(path, "tiny", tmp_path)
    assert verdict.words == {"only": "underpowered"}
    assert verdict.findings[0].main.seeds == 2
    assert sum("repeats another run: counted once" in note for note in verdict.notes) == 4


def test_a_key_that_the_claim_does_not_know_makes_it_another_arms(tmp_path):
    path = write_claim(tmp_path)
    for run in train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002):
        if "-new-" in run.name:
            change(run, "config.yaml", optimizer__secret=5)
    verdict = verified(path, "tiny", tmp_path)
    assert verdict.words == {"only": "underpowered"}
    assert any("nearest is new, but its optimizer.secret is 5 and not left out" in note for note in verdict.notes)


def test_a_key_that_the_claim_gave_must_be_there_and_a_default_need_not(tmp_path):
    path = write_claim(tmp_path)
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    for key, word in {"qr": "reproduced", "lr": "underpowered"}.items():
        for file in (tmp_path / "twice-tiny-only").glob("*-new-*/config.yaml"):
            config = yaml.safe_load(file.read_text())
            del config["optimizer"][key]
            file.write_text(yaml.safe_dump(config))
        verdict = verified(path, "tiny", tmp_path)
        assert verdict.words == {"only": word}
    assert any("nearest is new, but it has no optimizer.lr, which is to be 0.01" in note for note in verdict.notes)


def test_what_stands_in_for_the_papers_models_refutes_nothing(tmp_path):
    path = write_claim(tmp_path, {"paper": scale(stand_in=True)})
    train(read_claim(path), "paper", tmp_path, {"new": 1.1}, noise=0.002)
    assert verified(path, "paper", tmp_path).words == {"only": "not seen at this scale"}
