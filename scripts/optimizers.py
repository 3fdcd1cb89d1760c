"""Shows what each optimizer does with each parameter of a model, what it keeps of it, and what that costs.

    python -m scripts.optimizers                                          every optimizer, on GPT-2 small
    python -m scripts.optimizers model=gpt2_355m batch.tokens=2097152
    python -m scripts.optimizers model=gpt2_125m optimizer=soap           one of them, parameter by parameter
    python -m scripts.optimizers optimizer=soap optimizer.one_sided=true
    python -m scripts.optimizers soap --take-home                         writes soap.py, all of it in one file
    python -m scripts.optimizers soap --ranks=8,64                        what its work would gain from so many GPUs

The arguments are train.py's, and a word alone is an optimizer. `--take-home=FILE` writes that file; nothing is
overwritten. FLOPs are those of an update, its refreshes spread over their period; elementwise work is
charged to nobody. The vocabulary is GPT-2's unless data= is given.
"""

import re
import sys
from collections.abc import Sequence
from typing import Any

import torch

import optimizers
from conventions.config_keys import optimizer_name
from conventions.grid import Grid
from conventions.sentence import one_sentence
from conventions.terminal_table import table_text
from data.plan import vocabulary
from harness.command_line import answer_help, composed
from harness.config import Config, parse
from harness.shares import table
from models.base import LanguageModel
from models.plan import check_model
from optimizers.plan import OptimizerPlan, check_optimizer
from optimizers.take_home import take_home
from scripts.study.cost import UpdateCost, cost

GPT2 = {"model": "gpt2_125m", "batch.tokens": "524288", "data": "synthetic"}  # whose vocabulary is GPT-2's
NONE = "-"


def main(arguments: Sequence[str]) -> None:
    arguments = [f"optimizer={word}" if word.isidentifier() else word for word in arguments]
    over = [word for word in arguments if word.startswith("--ranks")]
    arguments = [word for word in arguments if word not in over]
    keys = {argument.partition("=")[0].lstrip("+") for argument in arguments}
    defaults = [f"{key}={value}" for key, value in GPT2.items() if key not in keys]
    with one_sentence():
        if any(key == "--take-home" for key in keys):
            print(take_home(arguments))
        elif over:
            print(over_ranks([*defaults, *arguments], over[0]))
        elif "optimizer" in keys:
            print(one([*defaults, *arguments]))
        else:
            print(everyone([*defaults, *arguments]))


def over_ranks(arguments: Sequence[str], word: str) -> str:
    """Make a table of what sharing the work out brings. ValueError: the word is no --ranks=8,64."""
    if not re.fullmatch(r"--ranks=[1-9]\d*(,[1-9]\d*)*", word):
        raise ValueError(f"{word} must be numbers of ranks, as in --ranks=8,64")
    cfg, model, planned = planned_on(arguments)
    units = planned.units(planned.build(model), model, cfg.batch.tokens)
    grid = table(units, [int(number) for number in word.partition("=")[2].split(",")])
    return f"{optimizer_name(cfg.optimizer)} on {headline(cfg, model)}\n\n{table_text(grid, ())}"


def everyone(arguments: Sequence[str]) -> str:
    """Make a table of all registered optimizers, each as configs/optimizer has it."""
    rows = []
    for info in optimizers.list_optimizers():
        cfg, model, costs = costed([*arguments, f"optimizer={info.name}"])
        parameters = sum(p.numel() for p in model.parameters())
        rows.append([
            info.name, f"{costs.state_bytes / parameters:.2f}", f"{(costs.flops or 0) / 1e9:,.1f}",
            f"{100 * (costs.flops or 0) / model_flops(cfg, model):.2f} %", f"{100 * costs.extra_passes:.0f} %",
            info.summary,
        ])  # fmt: skip
    header = ["optimizer", "state, B/parameter", "matrix GFLOPs/update", "of the model's", "extra passes", "what it is"]
    return "\n".join([headline(cfg, model), "", table_text(Grid("", header, rows), ("what it is",))])


def one(arguments: Sequence[str]) -> str:
    """Make a table of a model's parameters under one optimizer; those that are alike in all blocks share a row."""
    cfg, model, costs = costed(arguments)
    parameters = dict(model.named_parameters())
    alike: dict[tuple[Any, ...], int] = {}
    for name, p in parameters.items():
        rule, state, flops = costs.treatments[name][:3]
        key = (any_block(name), tuple(p.shape), any_block(rule), state, flops)
        alike[key] = alike.get(key, 0) + 1
    rows = []
    for (name, shape, rule, kept, flops), number in alike.items():
        rows.append([
            name, " x ".join(map(str, shape)), str(number), f"{number * kept / 1e6:,.2f}",
            f"{number * flops / 1e9:,.2f}" if costs.announced else NONE, rule,
        ])  # fmt: skip
    whole = "unknown" if costs.flops is None else f"{costs.flops / 1e9:,.2f}"
    total = f"{costs.state_bytes / 1e6:,.2f}"
    rows.append(["all", "", str(len(parameters)), total, whole, passes(costs)])
    header = ["parameter", "shape", "number", "state, MB", "GFLOPs/update", "treatment"]
    size = sum(p.numel() for p in parameters.values())
    share = "" if costs.flops is None else f", {100 * costs.flops / model_flops(cfg, model):.2f} % of the model's FLOPs"
    return "\n".join([
        f"{optimizer_name(cfg.optimizer)} on {headline(cfg, model)}", "",
        table_text(Grid("", header, rows), ("shape", "treatment")), "", *ties(model),
        f"{costs.state_bytes / size:.2f} bytes of state per parameter{share}",
    ])  # fmt: skip


def planned_on(arguments: Sequence[str]) -> tuple[Config, LanguageModel, OptimizerPlan]:
    """Return the config of these arguments, its model and its optimizer. ValueError says what is wrong with them."""
    cfg = parse(composed(arguments))
    build_model = check_model(cfg.model, cfg.context, cfg.seed)
    planned = check_optimizer(cfg.optimizer, cfg.allow_targets, "meta")
    # What announces its own cost needs no memory; an external class has to be tried on a real model.
    with torch.device("cpu" if planned.info.treat is None else "meta"):
        return cfg, build_model(vocabulary(cfg.data)), planned


def costed(arguments: Sequence[str]) -> tuple[Config, LanguageModel, UpdateCost]:
    """Find what an update of a run with these arguments costs, with its config and its model."""
    cfg, model, planned = planned_on(arguments)
    return cfg, model, cost(planned.info, planned.build, model, cfg.batch.tokens)


def model_flops(cfg: Config, model: LanguageModel) -> int:
    return model.flops_per_token(cfg.context) * cfg.batch.tokens


def any_block(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def headline(cfg: Config, model: LanguageModel) -> str:
    size = sum(p.numel() for p in model.parameters()) / 1e6
    rows = next(len(p) for p, role in model.roles().items() if role.kind == "embedding")
    return (
        f"{cfg.model['name']}: {size:,.1f}M parameters (vocabulary {rows:,}), {cfg.batch.tokens:,} tokens per update, "
        f"{model_flops(cfg, model) / 1e9:,.0f} GFLOPs for its gradient"
    )


def ties(model: LanguageModel) -> list[str]:
    """Write a sentence on parameters that are more than one thing, or none."""
    role_of = model.roles()
    roles = {any_block(name): role_of[p] for name, p in model.named_parameters()}
    head = any(role.kind == "head" for role in roles.values())
    sentences = [f"{name} is the head too" for name, role in roles.items() if role.kind == "embedding" and not head]
    sentences += [
        f"{name.removeprefix('blocks.*.')} is the queries', keys' and values' in one"
        for name, role in roles.items() if role.what == "qkv" and len(role.rows) == 3
    ]  # fmt: skip
    return ["; ".join(sentences) + "."] if sentences else []


def passes(update: UpdateCost) -> str:
    """Put the passes of an update into words."""
    named = {"gradient": "gradient", "sampled_grads": "gradient on sampled labels", "hvp": "Hessian-vector product",
             "joint_hvp": "Hessian-vector product in the gradient's pass"}  # fmt: skip
    terms = [f"{number:.3g} {named[kind]}" for kind, number in update.passes.items() if number]
    return " + ".join(terms) + " an update"


if __name__ == "__main__":
    answer_help(__doc__)
    main(sys.argv[1:])
