"""The page of what `make test-external` found: a row for each class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from conventions.grid import Grid, markdown

HEAD = """# Classes of other packages

An external optimizer ([Any optimizer](any-optimizer.md)) may want more than parameters and numbers.

```sh
# A class for matrices gets the hidden matrices; another class gets the rest.
python train.py optimizer=external optimizer._target_=torch.optim.Muon \\
    optimizer.rest._target_=torch.optim.AdamW optimizer.rest.lr=1e-3
# A class that wraps another optimizer gets a class or an instance, as it wants; base may have a base of its own.
python train.py optimizer=external optimizer._target_=pytorch_optimizer.SAM \\
    optimizer.base._target_=torch.optim.AdamW optimizer.base.lr=1e-3
# A class tells matrices by a flag of its groups, such as use_muon; hidden and rest hold keys of these groups.
python train.py optimizer=external optimizer._target_=pytorch_optimizer.Muon \\
    optimizer.hidden.lr=0.02 optimizer.rest.lr=1e-3
```

The model, the names of its parameters, the number of updates and the number of training targets are handed over where
a parameter of the constructor has such a name: `model`, `named_parameters`, `num_iterations`, `num_data` and others.

Before a run, halfstep steps the class on a small model. It learns there whether `step()` takes a closure, whether it
wants a gradient before the closure or a gradient with its graph, whether its state can be saved, and whether a change
of the learning rate changes anything. The run prints what it found, and its manifest keeps it under `external`. Every
pass is charged. If the class follows no schedule, its rate stays as it is, and the column `lr` is left out. To a matrix
method, a fused QKV is one matrix.

## Those that were tried

`make test-external` writes this page. It tries every optimizer class of {packages}. Each class trains gpt2_pico for 12
updates at its own learning rate, in a process of its own. {counts}

- **keys**: what the class needs beside its path, where it needs any. The sentence that refuses it names them.
- **handed over**: what halfstep hands to the class beside its groups of parameters.
- **resumes**: whether an interrupted run ends in the same bits.
- **schedule**: whether updates depend on the scheduled rate; *own*: the class schedules itself, so give
  `schedule=constant`.
- **weight decay**: in one update. *once*: the weight shrinks by rate times decay; *by the gradient*: the decay goes
  through the gradient or an average of it; *vectors too*: biases and gains are decayed; *-*: it has none.
- **FLOPs**: whether its matrix work can be counted beforehand; where not, no verdict is given in FLOPs.
- **bytes**: of state, per parameter. **s**: of a processor, for all these runs together, uncompiled.

"""


def page(outcomes: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> str:
    """Return docs/external.md for the outcomes of tests/external.py."""
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    counts = Counter(each["verdict"] for each in outcomes)
    verbs = {"trains": "train", "refused": "are refused", "diverged": "diverge", "fails": "fail"}
    parts = [f"{number} {verbs[verdict]}" for verdict, number in counts.most_common()]
    text = f"Of {len(outcomes)} classes {', '.join(parts)}"
    header = ["class", "verdict", "keys", "handed over", "resumes", "schedule", "weight decay", "FLOPs", "bytes", "s"]
    table = Grid("", header, [_row(each) for each in outcomes if each["verdict"] in ("trains", "diverged")])
    left = [each for each in outcomes if each["verdict"] not in ("trains", "diverged")]
    rest = "\n".join(f"- `{each['target']}` {each['verdict']}. {_reason(each)}" for each in left)
    head = HEAD.format(packages=packages, counts=f"{text}.")
    return f"{head}{markdown(table)}\n\n## Those that do not train\n\n{rest}\n"


def _row(each: Mapping[str, Any]) -> list[str]:
    keys = "<br>".join(f"`{key}={value}`" for key, value in each["overrides"].items())
    schedule = {True: "followed", False: "not followed", None: "unknown"}[each["heeds_schedule"]]
    schedule = "own" if each["own_schedule"] and each["heeds_schedule"] else schedule
    counted = "counted" if each["counted"] else "unknown"
    return [f"`{each['target']}`", each["verdict"], keys, ", ".join(each["handed"]), each["resumes"], schedule,
            each["decay"], counted, f"{each['bytes']:.1f}", f"{each['seconds']:.0f}"]  # fmt: skip


def _reason(each: Mapping[str, Any]) -> str:
    text = str(each["reason"]).partition(" is refused: ")[2] or str(each["reason"])
    return text if text.endswith(".") else f"{text}."
