"""Every recipe in configs/experiment/ composes and builds, and Sophia's hold to what its authors published."""

from functools import cache
from itertools import product
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import data
import models
import optimizers
from conventions.config_keys import CONFIGS
from conventions.keywords import bind, construct
from harness import tracker
from harness.config import differing_keys, parse
from harness.schedule import build_schedule

EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
SIZES, OPTIMIZERS, PRESETS = ("125m", "355m", "770m"), ("adamw", "lion", "sophia_g"), ("", "_repo", "_matched")
GPT2_TOKENS = 50257


@cache
def composed(name: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composition = compose("train", [f"experiment={name}"])
    return cast(dict[str, Any], OmegaConf.to_container(composition, resolve=True, throw_on_missing=True))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_composes_and_builds(name):
    """Everything that a run checks before it touches its data; the model on no memory."""
    cfg = parse(composed(name))
    schedule = construct(build_schedule, cfg.schedule, "schedule", cfg.steps)
    assert schedule(0) < 1
    assert schedule(cfg.steps - 1) == pytest.approx(cfg.schedule["final"], abs=1e-3)

    info = optimizers.find(cfg.optimizer["name"], cfg.optimizer.get("_target_"), cfg.allow_targets)
    keywords = bind(info.constructor, cfg.optimizer, "optimizer", ["params"])
    assert info.build(torch.nn.Linear(2, 2), **keywords).param_groups[0]["initial_lr"] == cfg.optimizer["lr"]

    family, shape = models.find(cfg.model["family"]), {k: v for k, v in cfg.model.items() if k != "vocabulary"}
    with torch.device("meta"):
        vocabulary = models.padded_vocabulary(cfg.model["vocabulary"], GPT2_TOKENS)
        model = family(**bind(family, shape, "model", ["vocabulary"]), vocabulary=vocabulary)
    assert cfg.context <= model.context

    bind(data.find(cfg.data["name"]), cfg.data, "data")
    bind(tracker.find(cfg.tracker["name"]), cfg.tracker, "tracker", ["folder", "config", "manifest"])


def test_the_arms_of_a_study_differ_in_the_optimizer_only():
    """A folder of runs is one comparison: same model, data, budget and evaluation."""
    studies: dict[str, dict[str, Any]] = {}
    for name in EXPERIMENTS:
        values = composed(name)
        first = studies.setdefault(values["study"], values)
        allowed = ("optimizer.", "run_dir", *(["schedule.final"] if name.endswith("_repo") else []))
        assert [key for key in differing_keys(first, values) if not key.startswith(allowed)] == [], name


def test_sophia_has_every_size_optimizer_and_preset():
    wanted = {f"sophia_{size}_{name}{preset}" for size, name, preset in product(SIZES, OPTIMIZERS, PRESETS)}
    assert wanted <= set(EXPERIMENTS)
    for size, name, preset in product(SIZES, OPTIMIZERS, PRESETS):
        values = composed(f"sophia_{size}_{name}{preset}")
        assert values["study"] == f"sophia_{size}{preset}"
        assert (values["model"]["name"], values["optimizer"]["name"]) == (f"gpt2_{size}", name)
        assert values["batch"]["tokens"] == 480 * values["context"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sophia_presets_touch_optimizer_and_final_only(size, name):
    paper, repo, matched = (composed(f"sophia_{size}_{name}{preset}") for preset in PRESETS)
    assert set(differing_keys(repo, matched)) <= {"schedule.final", "study"}
    assert set(differing_keys(paper, repo)) <= {"schedule.final", "study", "optimizer.preset", "optimizer.rho"}
    assert paper["schedule"]["final"] == matched["schedule"]["final"] == 0.05


@pytest.mark.parametrize(
    ("recipe", "peak", "final", "rho"),
    [
        ("125m_adamw", 6e-4, 3e-5, None),
        ("125m_sophia_g", 6e-4, 1.5e-5, 0.05),
        ("355m_adamw", 3e-4, 6e-5, None),
        ("355m_sophia_g", 7e-4, 1e-5, 0.08),
        ("770m_adamw", 2e-4, 1e-5, None),
        ("770m_sophia_g", 3e-4, 1e-5, 0.05),
    ],
)
def test_repo_presets_end_at_the_authors_learning_rates(recipe, peak, final, rho):
    """learning_rate, min_lr and rho of config/train_gpt2_*.py in the authors' repository."""
    values = composed(f"sophia_{recipe}_repo")
    assert values["optimizer"]["lr"] == peak
    assert values["optimizer"].get("rho") == rho
    assert peak * values["schedule"]["final"] == pytest.approx(final, rel=1e-5)


def test_a_flag_on_the_command_line_wins_over_the_recipe():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        values = compose("train", ["experiment=sophia_125m_sophia_g_repo", "optimizer.rho=0.1", "schedule.final=0"])
    assert (values.optimizer.rho, values.schedule.final) == (0.1, 0)
