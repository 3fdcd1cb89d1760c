"""Write the weights of a run as a folder that Hugging Face's transformers loads.

    python -m scripts.export results/runs/my_study/my_run my_model
    python -c "from transformers import AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained('my_model')"

It takes the newest good checkpoint. If an optimizer keeps two sets of weights, it takes those that val/loss speaks of.
It writes config.json, generation_config.json and model.safetensors, which have the logits of the run's own model; a
vocabulary padded for speed stays padded. It writes the tokenizer too, unless the tokens came without one.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from conventions.keywords import bind
from conventions.paths import path_argument
from conventions.sentence import Arguments, one_sentence, sentence
from conventions.yaml_file import read_yaml
from data.tokenizer_export import as_transformers
from harness.checkpoint import EVALUATED, evaluated_file, newest
from models import build_model, find
from models.base import LanguageModel
from models.hf import check_converts, to_transformers
from optimizers import find as find_optimizer
from optimizers import switches_weights


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.export", __doc__)
    parser.add_argument("run", type=path_argument, help="a run's folder")
    parser.add_argument("output", type=path_argument, help="folder to write; must not exist yet")
    options = parser.parse_args(arguments)
    with one_sentence():
        if options.output.exists():
            raise FileExistsError(f"{options.output} is there already: give the name of a new folder")
        model, step = load_run(options.run)
        lacking = save(model, options.output, tokenizer_of(options.run))
    print(f"wrote {options.output}: the weights of {options.run} after {step:,} updates{lacking}")


def tokenizer_of(run: Path) -> str | None:
    """Return the tokenizer that a run's config names; None: it names none."""
    data = read_yaml(run / "config.yaml").get("data")
    return data.get("tokenizer") if isinstance(data, dict) else None


def load_run(run: Path) -> tuple[LanguageModel, int]:
    """Return the model that val/loss speaks of in a run's newest good checkpoint, and how many updates that is.

    Raises FileNotFoundError where the folder is no run or holds no checkpoint yet, ValueError where none is whole or
    the newest lacks the weights that are evaluated.
    """
    if not (run / "config.yaml").is_file():
        raise FileNotFoundError(f"{run} is no run: it holds no config.yaml")
    config = read_yaml(run / "config.yaml")
    section = config["model"]
    checkpoint = newest(run / "checkpoints")
    if checkpoint is None:
        raise FileNotFoundError(f"{run} holds no checkpoint yet: let it run on to one, or set checkpoint.every lower")
    check_converts(find(section["family"]))
    path, state = checkpoint
    file, _ = evaluated_file(path)
    if file.name != EVALUATED and _two_sets(config.get("optimizer", {})):
        raise ValueError(
            f"{path} is older than {EVALUATED}: it lacks the averaged weights that this optimizer is evaluated at; "
            "train the run again"
        )
    weights = load_file(file)
    vocabulary = len(weights["embedding.weight"])  # the config may say auto
    keywords = bind(find(section["family"]), {**section, "vocabulary": vocabulary}, "model")
    model = build_model(section["family"], 0, **keywords)
    model.load_state_dict(weights)
    return model, state["step"]


def _two_sets(section: Mapping[str, Any]) -> bool:
    """Say whether an external class, if it is installed here, keeps two sets of weights."""
    target = str(section.get("_target_") or "")
    try:
        return bool(target) and switches_weights(find_optimizer("external", target, [target]).constructor)
    except ValueError:
        return False


def save(model: LanguageModel, output: Path, tokenizer: str | None) -> str:
    """Write the folder, whole or not at all; say what it lacks. tokenizer: its name here; None: nobody knows it."""
    new = output.with_name(f".new-{output.name}")
    shutil.rmtree(new, ignore_errors=True)
    to_transformers(model).save_pretrained(new)
    lacking = "" if tokenizer else ", without a tokenizer: the config names none"
    if tokenizer:
        try:
            as_transformers(tokenizer).save_pretrained(new)
        except (ValueError, OSError, ImportError) as error:
            lacking = f", without a tokenizer: {sentence(error)}"
    new.rename(output)
    return lacking


if __name__ == "__main__":
    main()
