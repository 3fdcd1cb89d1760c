"""A run's manifest: what is computed, from which data and code, on what, and how it has ended."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conventions.json_text import parse_json
from conventions.run_format import SCHEMA
from harness.config import Config
from harness.device import describe
from harness.objective import TimedObjective
from harness.origin import command, git_state, versions

Manifest = dict[str, Any]


def facts_of(
    cfg: Config, digest: str, objective: TimedObjective, data: Manifest, device: str, compiled: bool, kernels: str
) -> Manifest:
    """Collect what is known of a run before its first step.

    Args:
        digest: of the config.
        data: the entry of the corpus.
        kernels: as choose_kernels names them.
    """
    model: Any = objective.model
    sharded = objective.sharding.facts()
    return {
        "study": cfg.study,
        "config_hash": digest,
        "device": describe(device),
        "resolved": {
            "device": device,
            "dtype": str(objective.dtype).removeprefix("torch."),
            "compile": compiled,
            "micro": objective.micro,
            "kernels": kernels,
            "curvature_micro": objective.sizes.by_kind,  # on CUDA, from the first such pass on
        },
        "ranks": objective.ranks.world,
        "seed": cfg.seed,
        "data": data,
        "parameters": {"total": sum(p.numel() for p in model.parameters()), "matrix": model.matrix_parameters()},
        "flops_per_token": objective.flops_per_token,
        "tokens_per_step": cfg.batch.tokens,
        **({} if sharded is None else {"optimizer_work": sharded}),
    }


def begun(name: str, facts: Manifest) -> Manifest:
    """Return the manifest of a run that begins now."""
    origin = {"started": now(), "argv": command(), "git": git_state(), "versions": versions()}
    return {**_head(name), **origin, "ended": None, **facts, "began": _stretch(facts, 0), "resumes": []}


def resumed(old: Manifest, name: str, facts: Manifest, step: int) -> Manifest:
    """Return the manifest of a run that goes on now, from `step` on.

    It keeps where the run began and how it went on before: each stretch has its device, ranks and what was resolved.
    """
    before = old.get("resumes", [])
    # Versions that did not keep it have left the first stretch's facts in place, until a run was resumed.
    began = {} if before or "began" in old else {"began": _stretch(old, 0)}
    again = {"at": now(), "git": git_state(), "versions": versions(), **_stretch(facts, step)}
    return {**old, **began, **facts, **_head(name), "ended": None, "resumes": [*before, again]}


def read(path: Path) -> Manifest | None:
    """Read the manifest in a file, None where there is none; a ValueError says that it is broken."""
    try:
        manifest = parse_json(path.read_text())
        words = {
            "status": manifest["status"],
            "config_hash": manifest["config_hash"],
            "data.fingerprint": manifest["data"]["fingerprint"],
        }
        numbers = {"resolved.micro": manifest["resolved"]["micro"], "ranks": manifest["ranks"]}
        wrong = [key for key, value in words.items() if not isinstance(value, str)]
        wrong += [key for key, value in numbers.items() if type(value) is not int]
        if wrong:
            raise ValueError(f"its {wrong[0]} is none")
        return manifest
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is broken ({why}): give another run_dir, or delete that run") from error


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _stretch(facts: Manifest, step: int) -> Manifest:
    """Say from which step on a run goes on, and on what: its seconds are those of this device."""
    own = ["optimizer_work"] if "optimizer_work" in facts else []
    return {"step": step, **{key: facts.get(key) for key in ("device", "ranks", "resolved", *own)}}


def _head(name: str) -> Manifest:
    return {"schema": SCHEMA, "name": name, "status": "running", "error": None}
