"""Scores a model on downstream tasks by EleutherAI's evaluation harness, which need not be installed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.sentence import sentence

MISSING = "scripts.downstream needs EleutherAI's lm_eval: make install EXTRAS=downstream"
BEST = ("acc", "exact_match", "acc_norm")  # of a task's metrics, the first that it has is its score


@dataclass(frozen=True)
class Scoring:
    """How tasks are scored; the keywords are the options of scripts.downstream."""

    fewshot: int | None
    limit: int | None
    include: Path | None
    batch: int
    device: str

    def __post_init__(self) -> None:
        for name, least in (("fewshot", 0), ("limit", 1), ("batch", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, not {value}")
        if self.include is not None and not self.include.is_dir():
            raise FileNotFoundError(f"--include {self.include} is no folder of task files")

    def known(self, step: int) -> dict[str, Any]:
        """Return what a score is known by, beside its task: another of these is another score.

        Raises ModuleNotFoundError without the harness.
        """
        try:
            import lm_eval
        except ModuleNotFoundError:
            raise ModuleNotFoundError(MISSING) from None
        files = None if self.include is None else hash_files(self.include)
        way = {"harness": lm_eval.__version__, "fewshot": self.fewshot, "limit": self.limit}
        return {"step": step, **way, "files": files}

    def score(self, names: Sequence[str], theirs: Any, tokenizer: Any, context: int) -> dict[str, dict[str, Any]]:
        """Score a model of transformers on tasks; returns for each its metric, value, stderr, samples, chance and hash.

        Raises ValueError where the harness cannot run them.
        """
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        theirs = theirs.to(self.device)  # the harness leaves a model that is ready where it is
        network = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=self.batch, max_length=context)
        own = None if self.include is None else str(self.include)
        try:
            results = lm_eval.simple_evaluate(
                model=network, tasks=list(names), num_fewshot=self.fewshot, limit=self.limit, bootstrap_iters=0,
                task_manager=TaskManager(include_path=own, include_defaults=own is None), log_samples=True,
                random_seed=0, numpy_random_seed=0, torch_random_seed=0, fewshot_random_seed=0,
            )  # fmt: skip
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"--tasks {','.join(names)}: the harness cannot run them ({_why(error)}); lm_eval ls tasks lists "
                "what there is, and tasks whose data are on the Hugging Face Hub need a network"
            ) from None
        return {name: _outcome(results, name) for name in names}


def hash_files(folder: Path) -> str:
    """Return a hash of the names and contents of all files below a folder: an edited task is another task."""
    total = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder)}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()


def _why(error: Exception) -> str:
    """Put an error of the harness into words; it raises KeyError with whole sentences."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else sentence(error)


def _outcome(results: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a task's score, with its error and hash, and the score of a guess."""
    scores = results["results"].get(name, {})
    metrics = [key for key in scores if "," in key and "_stderr" not in key]
    if not metrics:
        tasks = ",".join(each for each in results["results"] if each != name)
        raise ValueError(f"--tasks {name}: it is a group of tasks without a score of its own: give --tasks {tasks}")
    chosen = min(metrics, key=lambda key: (*(key.partition(",")[0] != best for best in BEST), metrics.index(key)))
    short, _, kind = chosen.partition(",")
    samples = results.get("samples", {}).get(name, [])
    error = scores.get(f"{short}_stderr,{kind}")
    value = float(scores[chosen])
    if not isinstance(error, float) and short == "acc" and samples:
        error = (value * (1 - value) / max(len(samples) - 1, 1)) ** 0.5
    choices = [len(sample["arguments"]) for sample in samples]
    chance = sum(1 / number if number > 1 else 0.0 for number in choices) / len(choices) if choices else None
    return {
        "metric": short,
        "value": value,
        "stderr": error if isinstance(error, float) else None,
        "samples": len(samples),
        "chance": chance,
        "version": results.get("versions", {}).get(name),
        "hash": _hash(samples) if samples else None,
    }


def _hash(samples: Sequence[dict[str, Any]]) -> str:
    """Return the harness's hash of a task: of its documents, prompts and targets, as its own result files have it."""
    texts = (sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples)
    return hashlib.sha256("".join(texts).encode()).hexdigest()
