"""The forms of a run's manifest and config: the types of the keys that our programs use, whoever wrote the files.

A key may be missing or null, which means that it is not known; other keys may hold anything.
"""

import math
from typing import Any

LARGEST = 2**1000  # of a whole number; beyond it no float is as large

# A type; a list, of one form; a mapping, of forms by key. `float` takes whole numbers, too.
Form = Any
DEVICE = {"type": str, "name": str, "count": int, "threads": int}
RESOLVED = {"device": str, "dtype": str, "compile": bool, "micro": int, "kernels": str}
STRETCH = {"step": int, "device": DEVICE, "ranks": int, "resolved": RESOLVED}
ORIGIN = {
    "format": str, "repository": str, "commit": str, "run": str, "weights": str, "planned_steps": int, "config": {},
    "unknown": [str], "notes": [str], "sources": [{"file": str, "sha256": str}],
}  # fmt: skip
MANIFEST: Form = {
    "name": str, "study": str, "error": str, "started": str, "ended": str, "config_hash": str, "argv": [str],
    "git": {"commit": str, "dirty": bool}, "versions": {}, "device": DEVICE, "resolved": RESOLVED, "ranks": int,
    "seed": int, "parameters": {"total": int, "matrix": int}, "flops_per_token": float, "tokens_per_step": int,
    "data": {"name": str, "fingerprint": str, "vocabulary": int, "train_tokens": int, "val_tokens": int},
    "began": STRETCH, "resumes": [STRETCH], "origin": ORIGIN,
    "target": {"loss": float, "step": int}, "validation": {"targets": [float], "losses": [float]},
}  # fmt: skip
# Every run has these, a foreign one too. There a section may be a plain word.
CONFIG: Form = {
    "steps": int, "seed": int, "context": int, "batch": {"tokens": int}, "eval": {"every": int, "tokens": int},
    "optimizer": {"name": str, "_target_": str},
}  # fmt: skip
OWN_CONFIG: Form = {**CONFIG, "model": {"name": str}, "data": {"name": str}, "schedule": {}, "study": str}


def misfit(value: Any, form: Form, key: str = "") -> str | None:
    """Say where a value is not of a form: a sentence's end that names the key; None where it fits."""
    if value is None:
        return None
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{key} must hold keys, not {short(value)}"
        inner = ((value.get(name), each, f"{key}.{name}" if key else name) for name, each in form.items())
    elif isinstance(form, list):
        if not isinstance(value, list):
            return f"{key} must be a list, not {short(value)}"
        inner = ((each, form[0], f"{key}[{number}]") for number, each in enumerate(value))
    else:
        return None if is_a(value, form) else f"{key} must be {NAMES[form]}, not {short(value)}"
    return next((problem for each in inner if (problem := misfit(*each))), None)


NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def is_a(value: Any, kind: type) -> bool:
    """Return whether a value is of a type of `NAMES`, a number also finite and not larger than any float."""
    if kind is float:
        return is_a(value, int) or (isinstance(value, float) and math.isfinite(value))
    return type(value) is kind and not (isinstance(value, int) and abs(value) > LARGEST)


def short(value: Any) -> str:
    """Return a value as Python writes it, cut after 60 characters."""
    if type(value) is int and abs(value) > LARGEST:
        return "one of so many digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
