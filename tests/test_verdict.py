"""The verdict on an external optimizer: conformance that tells, equal tuning, a page, and nothing trained twice."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from harness.config import parse
from harness.device import resolve_device, resolve_dtype
from optimizers.plan import check_optimizer, overrides_of
from scripts import publish, verdict
from scripts.study import verdict_study
from scripts.study.conformance import Check, conformance
from scripts.study.plan_table import print_costs
from scripts.study.tuner import Tuner
from scripts.study.verdict_study import SCALES, Study
from tests.refusal import refusal
from tests.tuned import Pretended


class Sound(torch.optim.SGD):
    """An external class with nothing wrong with it."""

    def __init__(self, params, lr: float = 0.05, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.99)):
        super().__init__(params, lr=lr, momentum=betas[0], weight_decay=weight_decay)


class Forgetful(Sound):
    """Keeps its momentum where no checkpoint finds it, heeds no schedule, and moves what has no gradient."""

    def __init__(self, params, lr: float = 0.05):
        super().__init__(params, lr)
        self.momentum = {}

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                gradient = torch.zeros_like(p) if p.grad is None else p.grad
                self.momentum[p] = 0.9 * self.momentum.get(p, 0.0) + gradient + 0.01 * p
                p.sub_(0.05 * self.momentum[p])
        return loss


class Broken(Sound):
    def step(self, closure=None):
        raise RuntimeError("no step is made\nat all")


SMALL = """
tiny:
  config: [experiment=scale_tiny, model=gpt2_pico]
  steps: {steps}
  trials: 2
  seeds: [0, 1, 2]
  baseline: [0.5, 1, 2]
  newcomer: [1]
  may_say: next to nothing
"""


@pytest.fixture
def pretended(monkeypatch, here, undrawn):
    """The command with runs that are only written: of Lion at 1.5 times AdamW's speed."""
    sweep = Pretended(speedups={"lion": 1.5, "tests.test_verdict.Sound": 0.6})
    monkeypatch.setattr(verdict_study, "train_all", sweep)
    scale(monkeypatch, here, 2000)
    return sweep


@pytest.fixture
def brief(pretended, monkeypatch):
    """The same without the plan, the checks and the page, which take seconds."""
    monkeypatch.setattr(verdict, "print_costs", lambda *_: None)
    monkeypatch.setattr(verdict, "conformance", lambda *_: [Check("it steps", True, "12 updates")] * 2)
    monkeypatch.setattr(verdict, "page", lambda _: "")
    return pretended


def scale(monkeypatch, folder: Path, steps: int) -> None:
    path = folder / "verdict.yaml"
    path.write_text(SMALL.format(steps=steps))
    monkeypatch.setattr(verdict_study, "SCALES", path)


def rows(optimizer: str) -> dict[str, str]:
    """{check: what was found} of those that failed."""
    cfg = parse(Tuner.of(["model=gpt2_pico", *overrides_of(optimizer)], 1).values)
    planned = check_optimizer(cfg.optimizer, cfg.allow_targets)
    return {row.name: row.detail for row in conformance(planned.build, planned.info.charges) if not row.passed}


def sentence(capsys, *arguments: str) -> str:
    return refusal(capsys, verdict.main, *arguments)


def verdict_of(name: str) -> dict:
    return json.loads(Path(f"results/verdicts/{name}/verdict.json").read_text())


@pytest.mark.parametrize("optimizer", ["tests.test_verdict.Sound", pytest.param("soap", marks=pytest.mark.slow)])
def test_an_optimizer_that_behaves_passes_every_check(optimizer):
    assert rows(optimizer) == {}


def test_each_misbehaviour_is_a_row_of_its_own():
    failed = rows("tests.test_verdict.Forgetful")
    assert failed.keys() == {
        "its state survives a file", "its updates follow the rate", "frozen and unused parameters stay",
    }  # fmt: skip
    assert "some state is not in `state`" in failed["its state survives a file"]
    assert "schedule" in failed["its updates follow the rate"]


def test_a_class_that_cannot_step_ends_in_one_sentence_before_anything_trains(pretended, capsys):
    text = sentence(capsys, "tests.test_verdict.Broken")
    assert "tests.test_verdict.Broken cannot run here" in text
    assert "RuntimeError: no step is made at all (test_verdict.py" in text
    assert pretended.trained == []


def test_what_is_typed_is_trusted_and_starts_from_its_own_rate():
    assert overrides_of("lion") == ["optimizer=lion"]
    assert overrides_of("tests.test_verdict.Sound") == [
        "optimizer=external", "optimizer._target_=tests.test_verdict.Sound", "optimizer.lr=0.05",
        "allow_targets=[torch.optim,pytorch_optimizer,tests]",
    ]  # fmt: skip
    assert "allow_targets" not in " ".join(overrides_of("pytorch_optimizer.Lion"))


def test_a_newcomer_that_is_faster_is_said_to_be_so_on_a_page_and_in_json(pretended, capsys):
    verdict.main(["lion"])
    out = capsys.readouterr().out
    result = verdict_of("lion")
    assert result["verdict"] == "faster"
    (row,) = [row for row in result["rows"] if (row["rule"], row["axis"]) == ("matched", "steps")]
    speeds = {run.config["optimizer"]["name"]: pretended.speed(run) for run in pretended.trained[-12:]}
    assert row["speedup"] == pytest.approx(speeds["lion"] / speeds["adamw"], rel=0.03)
    assert result["sentence"] in out
    assert all(check["passed"] for check in result["conformance"])
    efforts = {(each["trials"], each["again"]) for each in result["tuning"].values()}
    assert efforts == {(2, 3)}
    assert not [warning for warning in result["warnings"] if "unequal" in warning]

    page = Path("results/verdicts/lion/report.html").read_text()
    assert page.index("<main>") < page.index(result["sentence"]) < page.index("<h2")
    assert 'id="conformance"' in page
    assert "next to nothing" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert Path("results/verdicts/lion/learning_rate.svg").is_file()


@pytest.mark.slow
def test_the_next_verdict_reuses_the_baselines_runs_and_the_same_one_trains_nothing(brief):
    verdict.main(["lion"])
    first = len(brief.trained)
    assert first == 2 * (2 + 3) + 3 * 3 + 3
    verdict.main(["lion"])
    assert len(brief.trained) == first
    verdict.main(["tests.test_verdict.Sound"])
    new = brief.trained[first:]
    assert {run.config["optimizer"].get("_target_") for run in new} == {"tests.test_verdict.Sound"}
    assert len(new) == 2 + 3 + 3
    assert verdict_of("tests.test_verdict.Sound")["verdict"] == "slower"
    assert verdict_of("lion")["verdict"] == "faster"


@pytest.fixture
def published(brief, corpus, here):
    """The baseline's part of a verdict, as another machine of this corpus and precision published it; no runs here."""
    dtype = str(resolve_dtype("auto", resolve_device("auto"))).removeprefix("torch.")
    brief.machine = {"data.fingerprint": corpus.fingerprint, "resolved.dtype": dtype}
    verdict.main(["lion"])
    for folder in sorted((here / "results/runs").iterdir()):
        publish.main([str(folder), "--optimizer", "adamw"])
    shutil.rmtree(here / "results/runs")
    brief.trained.clear()
    return brief


@pytest.mark.slow
def test_published_runs_of_the_baseline_are_taken_over_and_counted_as_done(published, monkeypatch, capsys):
    monkeypatch.setattr(verdict, "print_costs", print_costs)
    verdict.main(["lion", "--plan"])
    out = " ".join(capsys.readouterr().out.split())
    assert "14 published runs are taken over from results/verdict-tiny-" in out
    assert "timed on NVIDIA H100" in out
    assert "8/22" in out
    monkeypatch.setattr(verdict, "print_costs", lambda *_: None)
    verdict.main(["lion"])
    assert {run.config["optimizer"]["name"] for run in published.trained} == {"lion"}
    assert len(published.trained) == 2 + 3 + 3
    assert "taken over" not in capsys.readouterr().out  # they are here by now
    assert verdict_of("lion")["verdict"] == "faster"
    assert verdict_of("lion")["tuning"]["adamw"]["trials"] == 2


@pytest.mark.parametrize(("section", "key", "complaint"), [
    ("data", "fingerprint", "their stdlib is another text"),
    pytest.param("resolved", "dtype", "they are in other, runs on", marks=pytest.mark.slow),
])  # fmt: skip
def test_published_runs_that_would_be_others_here_are_not(published, here, capsys, section, key, complaint):
    for path in here.glob("results/verdict-*/**/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest[section][key] = "other"
        path.write_text(json.dumps(manifest))
    verdict.main(["lion"])
    assert complaint in capsys.readouterr().out
    assert len(published.trained) == 22


@pytest.mark.slow
def test_a_published_run_of_another_config_is_left_where_it_is(published, here):
    (path,) = list(here.glob("results/verdict-*/*-s2-*/config.yaml"))[:1]
    path.write_text(path.read_text().replace("grad_clip: 1.0", "grad_clip: 2.0"))
    verdict.main(["lion"])
    (again,) = [run for run in published.trained if run.config["optimizer"]["name"] == "adamw"]
    assert again.folder.name == path.parent.name


def test_what_was_cut_off_goes_on_where_it_was(brief, monkeypatch):
    def cut(trainings, study, overrides):
        brief(trainings[:2], study, overrides)
        raise SystemExit(130)

    monkeypatch.setattr(verdict_study, "train_all", cut)
    with pytest.raises(SystemExit):
        verdict.main(["lion"])
    monkeypatch.setattr(verdict_study, "train_all", brief)
    verdict.main(["lion"])
    assert len(brief.trained) == len({run.folder for run in brief.trained}) == 22
    assert verdict_of("lion")["verdict"] == "faster"


def test_runs_that_are_too_small_decide_nothing_and_say_so(brief, monkeypatch, here):
    scale(monkeypatch, here, 200)
    verdict.main(["lion"])
    result = verdict_of("lion")
    assert result["verdict"] == "underpowered"
    assert any("at least 2,000 updates, not 200" in note for note in result["notes"])
    assert "Runs too small for a verdict, which takes at least 2,000 updates, not 200." in result["sentence"]


def test_a_divergence_of_the_compared_runs_is_the_verdict(brief):
    write, brief.limit = brief.write, 1.0

    def diverging(training):
        lost = training.config["optimizer"]["name"] == "lion" and training.config["seed"] == 2
        brief.limit = 0.0 if lost else 1.0
        write(training)

    brief.write = diverging
    verdict.main(["lion"])
    assert verdict_of("lion")["verdict"] == "diverged"
    assert "diverged in steps" in verdict_of("lion")["sentence"]


def test_the_plan_comes_first_and_alone_starts_nothing(pretended, capsys):
    verdict.main(["lion", "--plan"])
    out = capsys.readouterr().out
    assert "22/22" in out
    assert "side by side" in out
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["lio"], "did you mean lion"),
        (["my_package.MyOpt"], "there is no module my_package"),
        (["pytorch_optimizer.Lio"], "did you mean Lion"),
        (["pathlib.Path"], "no torch.optim.Optimizer class"),
        (["adamw"], "is the baseline itself"),
        (["lion", "--scale", "huge"], "choose from tiny"),
        (["lion", "optimizer.lr=1"], "would change what the scale tiny fixes"),
        (["lion", "trials=99"], "trials is fixed"),
        (["lion", "range.schedule.final=[1e-3,1e-1]"], "would tune what adamw is not tuned in"),
        (["lion", "range.grad_clip=[0.1,10]"], "give range.optimizer.<key> and range.schedule.warmup alone"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_trained(pretended, capsys, arguments, complaint):
    assert complaint in sentence(capsys, *arguments)
    assert pretended.trained == []


@pytest.mark.parametrize("name", yaml.safe_load(SCALES.read_text()))
def test_the_scales_compose_and_are_large_enough_for_a_verdict(name, here):
    study = Study.of("lion", name, [])
    assert study.scale.steps >= 2000
    assert len(study.scale.seeds) >= 3
    assert len(study.scale.baseline) >= 3
    assert study.base.values["seed"] not in study.scale.seeds
    for tuner in study.tuners:
        assert study.scale.steps in study.lengths(tuner)
