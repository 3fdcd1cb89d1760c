"""Equal tuning: ranges that are data, quasi-random trials, what was chosen and from how many, and who got more."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from conventions.config_keys import CONFIGS, flatten
from harness.command_line import composed
from harness.config import config_hash
from harness.sweep.planned import plan_run, train_all
from judge.publication import publish
from judge.records import find_runs
from judge.tuning.search import Range, apply, search_space, settings
from judge.tuning.trials import tuning_of, unequal, with_tuning
from scripts import report, tune
from scripts.pages import tuning_figure
from scripts.study.tuner import SEED, Tuner
from tests.command import ROOT, environment
from tests.refusal import refusal
from tests.study import compared, write_run, write_study
from tests.tuned import Pretended

SMALL = ("model=gpt2_pico", "steps=200", "study=mine")
OPTIMIZERS = sorted(path.stem for path in (CONFIGS / "optimizer").glob("*.yaml") if path.stem != "external")


@pytest.fixture
def pretended(monkeypatch, here):
    """The command with runs that are only written."""
    sweep = Pretended()
    monkeypatch.setattr(tune, "train_all", sweep)
    return sweep


def tuned(*arguments: str) -> None:
    tune.main([*SMALL, *arguments])


def sentence(capsys, *arguments: str) -> str:
    return refusal(capsys, tune.main, *SMALL, *arguments)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_is_searched_in_its_rate_decay_and_warm_up_by_points_inside_its_ranges(optimizer):
    section = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"optimizer/{optimizer}.yaml"))
    values = flatten({"optimizer": section, "schedule": {"warmup": 0.1}})
    space = search_space(section.get("_target_") or section["name"], values)
    decay = set() if optimizer == "scion" else {"optimizer.weight_decay"}  # whose decay is its rate
    assert {*decay, "schedule.warmup"} <= space.keys()
    assert next(iter(space)) in ("optimizer.lr", "optimizer.d_coef")
    points = settings(space, 8)
    for key, each in space.items():
        assert all(each.low <= point[key] <= each.high for point in points)
        assert len({point[key] for point in points}) == 8


def test_trials_are_runs_of_half_the_length_on_a_seed_that_nobody_reports():
    trials = Tuner.of([*SMALL, "optimizer=soap"], trials=8).trials()
    assert len({str(run.folder) for run in trials}) == 8
    assert {(run.steps, run.config["seed"]) for run in trials} == {(100, 1000)}


def test_trials_spread_evenly_over_each_range_and_more_of_them_keep_the_first():
    space = {"a": Range(1e-4, 1e-1), "b": Range(0.9, 0.999, "decay")}
    few, many = settings(space, 8), settings(space, 24)
    assert many[:8] == few
    for key, each in space.items():
        eighths = {int(8 * each.share(point[key]) - 1e-9) for point in settings(space, 24)}
        assert eighths == set(range(8))


def test_an_external_optimizer_is_searched_round_its_own_rate_and_its_constructors_defaults():
    external = ("optimizer=external", "optimizer._target_=pytorch_optimizer.Tiger", "optimizer.lr=1e-3")
    tuner = Tuner.of([*SMALL, *external], trials=2)
    assert tuner.space["optimizer.lr"] == Range(6.25e-5, 0.016)
    assert "optimizer.weight_decay" in tuner.space  # its YAML names none, its constructor does
    other = Tuner.of([*SMALL, *external[:1], "optimizer._target_=torch.optim.NAdam", "optimizer.lr=1e-3"], trials=2)
    (first, *_) = other.trials()
    assert first.config["optimizer"]["betas"][0] == 0.9
    assert first.config["optimizer"]["betas"][1] == settings(other.space, 2)[0]["optimizer.betas[1]"]


def test_a_list_keeps_its_other_entries():
    assert apply({"optimizer.betas": [0.9, 0.95]}, {"optimizer.betas[1]": 0.99}) == {"optimizer.betas": [0.9, 0.99]}


def test_the_choice_is_the_best_at_full_length_and_its_overrides_make_that_very_run(pretended, here, capsys):
    tuned("optimizer=soap", "trials=6")
    (tuning,) = tuning_of("results/runs/mine").values()
    assert (len(tuning.trials), len(tuning.again), tuning.diverged) == (6, 3, 0)
    assert tuning.loss == min(run.loss for run in tuning.again)
    assert tuning.flops == pytest.approx(6 * 100 * 1e9 + 3 * 200 * 1e9)

    choice = yaml.safe_load((here / "results/runs/mine-tuning/soap/tuned.yaml").read_text())
    values = composed([*SMALL, *choice["overrides"], f"seed={SEED}"])
    assert config_hash(values)[:8] == choice["run"][-8:]
    assert choice["loss"] == tuning.loss
    assert choice["trials"] == 6
    assert "6 trials, 3 runs at full length (the best and its neighbours)" in capsys.readouterr().out
    for kind in ("svg", "png"):
        assert (here / f"results/runs/mine-tuning/soap/learning_rate.{kind}").stat().st_size > 2000


def test_what_has_ended_is_not_trained_again_and_more_trials_come_on_top(pretended, undrawn):
    tuned("optimizer=adamw", "trials=4")
    assert len(pretended.trained) == 7
    tuned("optimizer=adamw", "trials=4")
    assert len(pretended.trained) == 7
    tuned("optimizer=adamw", "trials=6")
    assert sum(run.steps == 100 for run in pretended.trained) == 6


def test_a_divergence_is_a_row_a_mark_and_no_choice(pretended, undrawn, capsys):
    pretended.limit = 0.02
    tuned("optimizer=adamw", "trials=8")
    (tuning,) = tuning_of("results/runs/mine").values()
    assert tuning.diverged > 0
    assert tuning.trials[-1].status == "diverged"
    assert tuning.best.settings["optimizer.lr"] <= 0.02
    assert "diverged" in capsys.readouterr().out
    drawing = tuning_figure.learning_rates({"adamw": tuning})
    lost = [line for line in drawing.figure.axes[0].lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert sum(len(line.get_xdata()) for line in lost) == tuning.diverged


def test_when_every_trial_diverged_it_says_which_range_to_lower(pretended, undrawn, capsys):
    pretended.limit = 0.0
    # Its plan stands on standard output by then.
    assert refusal(capsys, tune.main, *SMALL, "optimizer=lion", "trials=2", silent=False) == (
        "every trial of lion diverged: give a lower range.optimizer.lr=[low,high]"
    )


@pytest.mark.parametrize(("optimum", "end"), [(0.1, "upper"), (1e-4, "lower")])
def test_an_optimum_at_the_end_of_its_range_is_a_warning_that_says_how_to_widen_it(
    pretended, undrawn, capsys, optimum, end
):
    pretended.optimum = optimum
    tuned("optimizer=adamw", "trials=8", "range.optimizer.lr=[1e-3, 1e-2]")
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "optimizer.lr of adamw" in line]
    assert f"at the {end} end of its range, 0.001 to 0.01: range.optimizer.lr=[" in warning
    wider = json.loads(warning[warning.index("=[") + 1 : warning.index("]") + 1])
    assert wider == ([0.001, 0.04] if end == "upper" else [0.00025, 0.01])


def test_an_optimum_inside_its_range_is_none(pretended, undrawn):
    tuned("optimizer=adamw", "trials=8")
    (tuning,) = tuning_of("results/runs/mine").values()
    assert not [edge for edge in tuning.edges if "optimizer.lr" in edge]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("optimizer=adamm",), "did you mean adamw"),
        (("trials=many",), "trials must be a whole number"),
        (("trials=0",), "trials at least 1"),
        (("range.optimizer.lr=3",), "range.optimizer.lr must be [low, high]"),
        (("range.optimizer.lr=[1,0.1]",), "low must be below high"),
        (("range.optimizer.rl=[1,2]",), "did you mean optimizer.lr"),
        (("run_dir=here",), "study names its folder"),
        (("optimizer.lr=-1",), "optimizer.lr"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_trained(pretended, undrawn, capsys, arguments, complaint):
    assert complaint in sentence(capsys, *arguments)
    assert pretended.trained == []


def test_trials_of_another_batch_or_length_are_refused(pretended, undrawn, capsys):
    tuned("optimizer=adamw", "trials=2")
    assert "batch.tokens=8192 and not 4096" in sentence(capsys, "optimizer=adamw", "batch.tokens=4096")
    assert "neither steps=400 nor half" in sentence(capsys, "optimizer=adamw", "steps=400")
    assert "optimizer.eps" in sentence(capsys, "optimizer=adamw", "optimizer.eps=1e-6")


def test_the_report_says_who_got_more_trials(pretended, undrawn, tmp_path):
    study = write_study(tmp_path / "results/runs/mine", {"lion": 1.3})
    tuned("optimizer=adamw", "trials=4")
    tuned("optimizer=lion", "trials=4")
    before = with_tuning(compared(study), tuning_of(study))
    assert not [warning for warning in before.warnings if "unequal tuning" in warning]

    tuned("optimizer=lion", "trials=7")
    expected = with_tuning(compared(study), tuning_of(study))
    (warning,) = [warning for warning in expected.warnings if "unequal tuning" in warning]
    assert "lion got 7 trials of 100 updates" in warning
    assert "adamw 4 trials of 100 updates" in warning
    report.main([str(study)])
    assert "unequal tuning: lion got 7 trials" in (study / "report.html").read_text()


def test_a_wider_range_costs_trials_that_are_counted_too(pretended, undrawn):
    tuned("optimizer=adamw", "trials=4")
    tuned("optimizer=lion", "trials=4")
    tuned("optimizer=lion", "trials=4", "range.optimizer.lr=[1e-5,1e-1]")
    (warning,) = unequal(tuning_of("results/runs/mine"), "adamw", ["adamw", "lion"])
    assert "lion got 8 trials of 100 updates" in warning


def test_a_newcomer_that_alone_was_tuned_is_unequal(pretended, undrawn):
    tuned("optimizer=lion", "trials=3")
    (warning,) = unequal(tuning_of("results/runs/mine"), "adamw", ["adamw", "lion"])
    assert warning.endswith("adamw none")


def test_what_was_tuned_for_each_may_differ_and_what_was_not_may_not(pretended, undrawn, tmp_path):
    study = tmp_path / "results/runs/mine"
    write_study(study, {})
    for seed in range(3):
        write_run(study, "lion", 2000, seed, 1.3, config={"schedule.warmup": 0.05, "schedule.final": 0.0})
    tuned("optimizer=adamw", "trials=3")
    tuned("optimizer=lion", "trials=3")
    expected = with_tuning(compared(study), tuning_of(study))
    assert [warning.split()[0] for warning in expected.warnings if "differs" in warning] == ["schedule.final"]
    assert any(note.startswith("schedule.warmup was tuned for each: 0.1 for adamw") for note in expected.notes)


def test_a_seed_that_was_tuned_on_may_not_be_reported(pretended, undrawn, tmp_path):
    study = write_study(tmp_path / "results/runs/mine", {"lion": 1.3})
    for optimizer in ("adamw", "lion"):
        tuned(f"optimizer={optimizer}", "trials=2", "seed=1")
    expected = with_tuning(compared(study), tuning_of(study))
    assert "lion was tuned on a seed that is reported: 1" in expected.warnings


def test_a_study_without_trials_says_nothing(tmp_path):
    study = write_study(tmp_path / "mine", {"lion": 1.3})
    assert tuning_of(study) == {}
    comparison = compared(study)
    assert with_tuning(comparison, {}) is comparison


def test_broken_plans_are_named(pretended, undrawn):
    tuned("optimizer=adamw", "trials=2")
    (plan := tuning_of("results/runs/mine")["adamw"].folder / "tuning.yaml").write_text("{")
    with pytest.raises(ValueError, match=str(plan)):
        tuning_of("results/runs/mine")


def test_a_published_tuning_reads_as_it_did(pretended, undrawn):
    tuned("optimizer=adamw", "trials=3", "range.optimizer.lr=[1e-3,1e-2]")
    (before,) = tuning_of("results/runs/mine").values()
    publish(Path("results/runs/mine-tuning"), Path("results/mine-tuning"))
    (after,) = tuning_of("results/mine").values()
    assert (after.space, after.steps, after.trials, after.edges) == (
        before.space, before.steps, before.trials, before.edges,
    )  # fmt: skip
    assert Path("results/mine-tuning/adamw/tuned.yaml").is_file()


def test_a_range_needs_values_on_its_scale():
    for bad in ({"low": 0, "high": 1}, {"low": 2, "high": 1}, {"low": 0.5, "high": 1.0, "scale": "decay"}):
        with pytest.raises(ValueError, match="must be"):
            Range(**bad)
    with pytest.raises(ValueError, match="none of the keys"):
        search_space("mystery", {})


@pytest.mark.slow
def test_real_trials_go_through_the_sweep_and_one_that_fails_takes_no_other_along(here):
    tuner = Tuner.of(["model=gpt2_pico", "batch.tokens=256", "steps=4", "eval.tokens=256", "study=real"], trials=2)
    broken = plan_run(tuner.values, {"data.name": "nowhere"}, tuner.folder)
    with pytest.raises(ValueError, match=r"1 of 3 runs did not end .*jobs.jsonl says why"):
        train_all([broken, *tuner.trials()], tuner.folder, ["launcher=serial"])
    (tuning,) = tuning_of("results/runs/real").values()
    assert [run.status for run in tuning.trials] == ["finished"] * 2
    first = tuner.trials()[0]
    expected = yaml.safe_load((first.folder / "config.yaml").read_text())
    assert expected == {**first.config, "resume": True, "launcher": {"name": "serial"}}
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    train_all(tuner.trials(), tuner.folder, ["launcher=serial"])
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_a_tuning_that_is_killed_goes_on_where_it_was(here):
    line = [sys.executable, "-m", "scripts.tune", "model=gpt2_pico", "batch.tokens=256", "eval.tokens=256", "steps=100",
            "trials=2", "study=killed", "launcher.jobs=1"]  # fmt: skip
    options = {"cwd": here, "env": environment(PYTHONPATH=str(ROOT)), "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(line, **options)
    while not (begun := list(here.glob("results/runs/killed-tuning/*/*/metrics.jsonl"))):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    while any(run.status == "running" for run in find_runs(here / "results/runs")):
        time.sleep(0.1)  # the sweep ends with whoever started it
    assert subprocess.run(line, **options).returncode == 0
    (tuning,) = tuning_of(here / "results/runs/killed").values()
    assert (len(tuning.trials), len(tuning.again), tuning.diverged) == (2, 3, 0)
    assert begun[0].is_file()
