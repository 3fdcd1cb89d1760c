"""Tries every optimizer class of eight packages in a run of its own, and writes docs/external.md.

    make test-external                                   # every class; goes on where it was interrupted
    python -m tests.external --only torch.optim.Muon --anew

Each class trains gpt2_pico for 12 updates in a process of its own, again with an interruption, and makes single
updates with and without weight decay. Where it is refused with overrides as the remedy, it is tried again with these. A
limit on the processor's time and on memory ends what does not come to an end; no clock decides anything else. What is
compiled runs uncompiled here: a compilation takes far longer than these runs. Expect results/runs/external.jsonl too.
"""

import argparse
import copy
import gc
import importlib
import importlib.metadata
import json
import os
import re
import resource
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import train
from optimizers.external.request import request_of
from optimizers.external.target import is_optimizer, load_class
from optimizers.plan import check_optimizer
from tests.command import composed, manifest, rows
from tests.external_page import page
from tests.tiny import tiny_batch, tiny_model, tiny_objective, weights

PACKAGES = {  # as they are imported, and as they are installed
    "torch.optim": "torch", "pytorch_optimizer": "pytorch_optimizer", "heavyball": "heavyball",
    "schedulefree": "schedulefree", "lion_pytorch": "lion-pytorch", "prodigyopt": "prodigyopt",
    "muon": "muon-optimizer", "adam_mini": "adam-mini",
}  # fmt: skip
OUTCOMES, PAGE = Path("results/runs/external.jsonl"), Path("docs/external.md")
PROCESSOR_SECONDS, ADDRESSES = 120, 16 << 30
FIRST = ("optimizer=external", "optimizer._target_=torch.optim.SGD", f"allow_targets=[{','.join(PACKAGES)}]")
STOPPED = 6  # the update before which the second run is interrupted: its last checkpoint is that of the fourth
RUN = ("steps=12", "checkpoint.every=4", "eval.every=12", "log.every=6", "batch.tokens=256", "eval.tokens=256")
REMEDY = re.compile(r"(optimizer\.[\w.]+)=([\w.\-]+)")
OF_HEAVYBALL = {"base": ("heavyball.Muon", "heavyball.AdamW"), "rest": ("heavyball.AdamW", "heavyball.AdamW")}


def classes() -> Iterator[str]:
    """Yield the path of every optimizer class that the packages offer, in their order."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in sorted(vars(module).keys() | set(dir(module))):
            if not name.startswith("_") and is_optimizer(getattr(module, name, None)):
                yield f"{package}.{name}"


def outcome_of(target: str) -> dict[str, Any]:
    """Try a class in a process of its own; returns what came out."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS + 5))
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
            shown = os.fdopen(os.dup(2), "w")
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            with os.fdopen(writing, "w") as file:
                json.dump(tried(target), file)
            code = 0
        except BaseException as error:
            print(f"{target}: {''.join(traceback.format_exception(error))}", file=shown, flush=True)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status, usage = os.wait4(pid, 0)
    seconds = usage.ru_utime + usage.ru_stime
    died = f"its process ended with signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "its process ended"
    if seconds >= PROCESSOR_SECONDS:
        died = f"it took more than {PROCESSOR_SECONDS} s of a processor"
    found = json.loads(text) if text else {"verdict": "fails", "reason": died}
    return {"target": target, "seconds": round(seconds, 1), **found}


def tried(target: str) -> dict[str, Any]:
    """Train a class, with the overrides that a refusal names as its remedy, and ask the other questions."""
    overrides: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        while True:
            values = config(target, overrides)
            try:
                status = train.main({**values, "run_dir": "whole"})
                break
            except Exception as error:
                named = remedy(target, str(error))
                if "is refused:" in str(error) or not named or named.keys() <= overrides.keys():
                    kind = "refused" if "is refused:" in str(error) else "fails"
                    return {"verdict": kind, "reason": " ".join(str(error).split()), "overrides": overrides}
                overrides |= named
        made, last = manifest(Path("whole")), rows(Path("whole"))
        told = {"verdict": "trains" if status == "finished" else status, "overrides": overrides, **made["external"]}
        told["bytes"] = [row["memory/state_per_parameter"] for row in last if "memory/state_per_parameter" in row][-1]
        told["counted"] = last[0]["flops/optimizer"] is not None
        told["resumes"] = goes_on(values, status)
        told["decay"] = decay(values["optimizer"])
        return told


def config(target: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a run, with overrides of keys below `optimizer`."""
    values = copy.deepcopy(composed(*RUN, *FIRST))
    values["optimizer"] = {"name": "external", "_target_": target}
    for key, value in overrides.items():
        _, *path, last = key.split(".")
        section = values["optimizer"]
        for name in path:
            section = section.setdefault(name, {})
        section[last] = float(value) if last == "lr" else value
    return values


def remedy(target: str, sentence: str) -> dict[str, str]:
    """Read the overrides out of a sentence; classes of heavyball's SplitOpt have to be heavyball's own."""
    if target == "heavyball.SplitOpt" and "joins two classes" in sentence:
        return {f"optimizer.{name}._target_": each[0] for name, each in OF_HEAVYBALL.items()}
    return dict(REMEDY.findall(sentence.partition(": give")[2]))


def goes_on(values: dict[str, Any], status: str) -> str:
    """Say whether a run that is stopped, and goes on from its checkpoint, ends in the same bits."""
    if status != "finished":
        return "-"
    draw = train.Loader.batch

    def stop(loader: train.Loader, step: int) -> Any:
        if step == STOPPED:
            raise KeyboardInterrupt
        return draw(loader, step)

    try:
        train.Loader.batch = stop  # type: ignore[method-assign]
        with suppress(KeyboardInterrupt):
            train.main({**values, "run_dir": "cut"})
        train.Loader.batch = draw  # type: ignore[method-assign]
        train.main({**values, "run_dir": "cut", "resume": True})
    except Exception as error:
        return f"no: {type(error).__name__}"
    step = sorted(Path("whole/checkpoints").iterdir())[-1].name
    ends = [Path(run, "checkpoints", step, "model.safetensors").read_bytes() for run in ("whole", "cut")]
    return "yes" if ends[0] == ends[1] and rows(Path("whole")) == rows(Path("cut")) else "no"


def decay(section: dict[str, Any]) -> str:
    """Say how a weight decay acts on matrices, and whether it spares vectors: one update with it and one without."""
    inner, where = load_class(section["_target_"], list(PACKAGES)), section
    if "weight_decay" not in request_of(inner).keywords and "base" in section:
        inner, where = load_class(section["base"]["_target_"], list(PACKAGES)), section["base"]
    if "weight_decay" not in request_of(inner).keywords:
        return "-"
    ends, share = [], 0.25
    for each in (0.0, share):
        where["weight_decay"] = each
        try:
            ends.append(updated(section))
        except Exception:
            return "?"
    (without, _), (moved, model) = ends
    names = dict(model.named_parameters())
    apart = {name: a - b for name, a, b in zip(names, moved, without, strict=True)}
    vectors = [name for name, p in names.items() if p.ndim < 2]
    if any(apart[name].any() for name in vectors):
        return "vectors too"
    rate = section.get("lr") or next(iter(model.rates))
    sizes = []
    for name, p in names.items():
        if p.ndim > 1 and apart[name].any():
            start = model.start[name]
            size = (apart[name] * start).sum() / (start * start).sum() / -(rate * share)
            exact = (apart[name] + size * rate * share * start).norm() < 0.05 * apart[name].norm()
            sizes.append(round(size.item(), 2) if exact else None)
    if not sizes:
        return "not in the first update"
    if None in sizes:
        return "by the gradient"
    return "once" if {abs(size - 1) < 0.05 for size in sizes} == {True} else f"{min(sizes):g} times"


def updated(section: dict[str, Any]) -> tuple[list[torch.Tensor], Any]:
    """Return the weights of the tiny model after an update, and the model with its weights before and its rates."""
    model: Any = tiny_model()
    model.start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = check_optimizer(section, list(PACKAGES)).build(model)
    model.rates = [group["lr"] for group in optimizer.param_groups if "lr" in group] or [1.0]
    optimizer.step(tiny_objective(model).bind(0, tiny_batch(0)))  # type: ignore[arg-type]
    return weights(model), model


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.external", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="the path of a class, or of a package; repeatable")
    parser.add_argument("--anew", action="store_true", help="forget the outcomes of those classes first")
    options = parser.parse_args()
    torch.set_num_threads(1)  # before the first fork: threads do not survive one
    outcomes = OUTCOMES.resolve()
    known = (
        {each["target"]: each for each in map(json.loads, outcomes.read_text().splitlines())}
        if outcomes.exists()
        else {}
    )
    paths = list(classes())  # which imports their packages
    # Once for all: the config, torch's compiler, and what the collector need not look at again in every child.
    composed(*RUN, *FIRST)
    torch.compiler.set_stance("force_eager")
    gc.freeze()
    chosen = [path for path in paths if not options.only or any(f"{path}.".startswith(f"{o}.") for o in options.only)]
    for path in chosen if options.anew else [path for path in chosen if path not in known]:
        known[path] = outcome_of(path)
        print(json.dumps(known[path]), flush=True)
        outcomes.parent.mkdir(parents=True, exist_ok=True)
        outcomes.write_text("".join(f"{json.dumps(each)}\n" for each in known.values()))
    if all(path in known for path in paths):
        versions = {package: importlib.metadata.version(name).partition("+")[0] for package, name in PACKAGES.items()}
        PAGE.write_text(page([known[path] for path in paths], versions))
        settled = sum(known[path]["verdict"] != "fails" for path in paths)
        print(f"{settled} of {len(paths)} classes train or are refused with the remedy: {PAGE}")
        sys.exit(settled < 0.95 * len(paths))


if __name__ == "__main__":
    main()
