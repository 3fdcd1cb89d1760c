"""Every recipe in configs/experiment/ composes and builds, and Sophia's hold to what its authors published."""

from functools import cache
from itertools import product
from typing import Any

import pytest
import torch

import data
import models
from conventions.config_keys import CONFIGS, differing_keys, flatten
from conventions.keywords import bind, construct
from conventions.yaml_file import read_yaml
from harness import command_line, tracker
from harness.config import parse
from harness.schedule import build_schedule
from judge.tuning.search import apply, search_space, value_of
from optimizers.plan import check_optimizer
from tests.cases import quick_cases, slow_cases

SIZES, OPTIMIZERS, PRESETS = ("125m", "355m", "770m"), ("adamw", "lion", "sophia_g"), ("", "_repo", "_matched")
GPT2_TOKENS = 50257
# Of each size, what Sophia's authors published: peak and final share of it, and what their code has for rho.
# fmt: off
NUMBERS = {
    # size, optimizer: lr, weight_decay, final in their code, rho in their code
    ("125m", "adamw"): (6e-4, 0.1, 0.05, None), ("125m", "lion"): (1e-4, 0.6, 0.05, None),
    ("125m", "sophia_g"): (6e-4, 0.2, 0.025, 0.05),
    ("355m", "adamw"): (3e-4, 0.1, 0.2, None), ("355m", "lion"): (1e-4, 0.3, 0.05, None),
    ("355m", "sophia_g"): (7e-4, 0.2, 0.0142857, 0.08),
    ("770m", "adamw"): (2e-4, 0.1, 0.05, None), ("770m", "lion"): (8e-5, 0.25, 0.05, None),
    ("770m", "sophia_g"): (3e-4, 0.2, 0.0333333, 0.05),
}
# fmt: on


def sophia(size: str, optimizer: str, preset: str) -> tuple[str, str]:
    """The overrides of one of the 27 recipes."""
    recipe = f"sophia/{optimizer}{preset.replace('matched', 'repo')}"
    chosen = f"[{recipe},sophia/matched]" if preset == "_matched" else recipe
    return f"experiment={chosen}", f"model=gpt2_{size}"


RECIPES = {
    f"{size}_{optimizer}{preset}": sophia(size, optimizer, preset)
    for size, optimizer, preset in product(SIZES, OPTIMIZERS, PRESETS)
} | {path.stem: (f"experiment={path.stem}",) for path in (CONFIGS / "experiment").glob("*.yaml")}
ONE_SIZE = quick_cases(SIZES, SIZES[:1])
LARGER = [name for name in RECIPES if name.startswith(SIZES[1:])]
PUBLIC = sorted(
    f"{path.parent.name}/{path.stem}"
    for path in (CONFIGS / "experiment").glob("*/*.yaml")
    if path.parent.name != "sophia"
)


@cache
def composed(name: str) -> dict[str, Any]:
    return command_line.composed(RECIPES[name])


def differing(*many: dict[str, Any]) -> list[str]:
    return differing_keys([flatten(values) for values in many])


@pytest.mark.parametrize("name", slow_cases(RECIPES, LARGER))
def test_composes_and_builds(name):
    """Everything that a run checks before it touches its data; the model on no memory."""
    cfg = parse(composed(name))
    schedule = construct(build_schedule, cfg.schedule, "schedule", cfg.steps)
    assert schedule(0) < 1
    assert schedule(cfg.steps) == pytest.approx(cfg.schedule["final"], abs=1e-3)

    plan = check_optimizer(cfg.optimizer, cfg.allow_targets)
    assert plan.build(torch.nn.Linear(2, 2)).param_groups[0]["initial_lr"] == cfg.optimizer["lr"]

    family, shape = models.find(cfg.model["family"]), {k: v for k, v in cfg.model.items() if k != "vocabulary"}
    with torch.device("meta"):
        vocabulary = models.padded_vocabulary(cfg.model["vocabulary"], GPT2_TOKENS)
        model = family(**bind(family, shape, "model", ["vocabulary"]), vocabulary=vocabulary)
    assert cfg.context <= model.context

    bind(data.find(cfg.data["name"]), cfg.data, "data")
    bind(tracker.find(cfg.tracker["name"]), cfg.tracker, "tracker", ["folder", "config", "manifest"])


@pytest.mark.slow
def test_the_arms_of_a_study_differ_in_the_optimizer_only():
    """A folder of runs is one comparison: same model, data, budget and evaluation."""
    studies: dict[str, dict[str, Any]] = {}
    for name in RECIPES:
        values = composed(name)
        first = studies.setdefault(values["study"], values)
        allowed = ("optimizer.", "run_dir", *(["schedule.final", "grad_clip"] if name.endswith("_repo") else []))
        assert [key for key in differing(first, values) if not key.startswith(allowed)] == [], name


@pytest.mark.parametrize("size", ONE_SIZE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_sophia_has_every_size_optimizer_and_preset_with_the_authors_numbers(size, optimizer, preset):
    values = composed(f"{size}_{optimizer}{preset}")
    assert values["study"] == f"sophia_{size}{preset}"
    assert (values["model"]["name"], values["optimizer"]["name"]) == (f"gpt2_{size}", optimizer)
    assert values["batch"]["tokens"] == 480 * values["context"]
    lr, decay, final, rho = NUMBERS[size, optimizer]
    assert (values["optimizer"]["lr"], values["optimizer"]["weight_decay"]) == (lr, decay)
    assert values["schedule"]["final"] == (final if preset == "_repo" else 0.05)
    assert values["optimizer"].get("rho") == rho  # the README pairs it with the rate, whatever the preset
    accumulated = {"125m": 6, "355m": 8, "770m": 12}[size] if (optimizer, preset) == ("adamw", "_repo") else 1
    assert values["grad_clip"] == pytest.approx(1 / accumulated, rel=1e-5)
    assert values["optimizer"]["decay_embeddings"] is False
    assert values["optimizer"].get("preset") == ({"": "paper"}.get(preset, "repo") if rho else None)


def test_a_model_that_the_authors_did_not_train_needs_numbers_of_its_own():
    words = ["experiment=sophia/adamw", "model=gpt2_nano"]
    with pytest.raises(ValueError, match=r"optimizer\.lr: it has values for gpt2_125m, .* and none for gpt2_nano: "):
        command_line.composed(words)
    values = command_line.composed([*words, "optimizer.lr=1e-3"])
    assert (values["optimizer"]["lr"], values["study"]) == (1e-3, "sophia")


@pytest.mark.parametrize("size", ONE_SIZE)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sophia_presets_touch_optimizer_and_final_only(size, name):
    paper, repo, matched = (composed(f"{size}_{name}{preset}") for preset in PRESETS)
    assert set(differing(repo, matched)) <= {"schedule.final", "grad_clip", "study"}
    keys = {"schedule.final", "grad_clip", "study", "optimizer.preset", "optimizer.rho"}
    assert set(differing(paper, repo)) <= keys
    assert paper["grad_clip"] == matched["grad_clip"] == 1.0
    assert paper["schedule"]["final"] == matched["schedule"]["final"] == 0.05


@pytest.mark.parametrize(
    ("recipe", "peak", "final", "rho"),
    [
        ("125m_adamw", 6e-4, 3e-5, None),
        ("125m_sophia_g", 6e-4, 1.5e-5, 0.05),
        pytest.param("355m_adamw", 3e-4, 6e-5, None, marks=pytest.mark.slow),
        pytest.param("355m_sophia_g", 7e-4, 1e-5, 0.08, marks=pytest.mark.slow),
        pytest.param("770m_adamw", 2e-4, 1e-5, None, marks=pytest.mark.slow),
        pytest.param("770m_sophia_g", 3e-4, 1e-5, 0.05, marks=pytest.mark.slow),
    ],
)
def test_repo_presets_end_at_the_authors_learning_rates(recipe, peak, final, rho):
    """learning_rate, min_lr and rho of config/train_gpt2_*.py in the authors' repository."""
    values = composed(f"{recipe}_repo")
    assert values["optimizer"]["lr"] == peak
    assert values["optimizer"].get("rho") == rho
    assert peak * values["schedule"]["final"] == pytest.approx(final, rel=1e-5)


@pytest.mark.parametrize("size", ONE_SIZE)
def test_sophia_h_has_gs_rates_and_a_gamma_of_its_own(size):
    g, h = (command_line.composed([f"experiment=sophia/sophia_{which}", f"model=gpt2_{size}"]) for which in ("g", "h"))
    assert set(differing(g, h)) <= {"optimizer.name", "optimizer.rho"}
    assert h["optimizer"]["rho"] is None


def test_a_flag_on_the_command_line_wins_over_the_recipe():
    values = command_line.composed(["experiment=sophia/sophia_g_repo", "optimizer.rho=0.1", "schedule.final=0"])
    assert (values["optimizer"]["rho"], values["schedule"]["final"]) == (0.1, 0)


def test_a_recipe_that_is_not_there():
    with pytest.raises(ValueError, match="experiment=sophia/adamm is not there: did you mean sophia/adamw"):
        command_line.composed(["experiment=sophia/adamm"])


@cache
def plain_with(optimizer: str) -> dict[str, Any]:
    return command_line.composed(["experiment=scale_small", f"optimizer={optimizer}"])


@pytest.mark.parametrize("name", quick_cases(PUBLIC, PUBLIC[::3]))
def test_what_others_tuned_sets_the_optimizer_and_what_a_hyperball_keeps_and_lies_where_a_tuning_looks(name):
    defaults = read_yaml(CONFIGS / "experiment" / f"{name}.yaml")["defaults"]
    optimizer = next(each["override /optimizer"] for each in defaults if "override /optimizer" in each)
    plain = plain_with(optimizer)
    values = command_line.composed([f"experiment=[scale_small,{name}]"])
    others = {key for key in differing(plain, values) if not key.startswith("optimizer.")}
    assert others == ({"model.init_scale"} if "hyperball" in values["optimizer"] else set())
    check_optimizer(values["optimizer"], values["allow_targets"])
    flat = flatten(values)
    for key, each in search_space(values["optimizer"].get("_target_") or optimizer, flat).items():
        value = value_of(flat, key)
        if (key, flat.get("optimizer.scale")) == ("optimizer.lr", "match_rms"):
            continue  # it takes AdamW's rate, which is searched with range.optimizer.lr
        if key == "optimizer.weight_decay" and "optimizer.hyperball" in flat:
            continue  # of the rest alone
        if key.startswith("optimizer.") and value:  # a decay of 0 is on no logarithmic scale
            assert 0 <= each.share(value) <= 1, key


@pytest.mark.parametrize("name", ["sophia_g", "sophia_h"])
def test_the_decay_of_sophias_curvature_is_searched_although_its_config_says_null(name):
    section = command_line.composed([f"optimizer={name}"])["optimizer"]
    values = flatten({"optimizer": section})
    assert "optimizer.betas[1]" in search_space(name, values)
    changed = apply(values, {"optimizer.betas[1]": 0.98})
    plan = check_optimizer({**section, "betas": changed["optimizer.betas"]}, [])
    assert plan.build(torch.nn.Linear(2, 2)).defaults["betas"] == (0.96, 0.98)
