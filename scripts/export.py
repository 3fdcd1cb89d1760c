"""Write the weights of a run as a folder that Hugging Face's transformers loads.

    python -m scripts.export results/runs/my_study/my_run my_model
    python -c "from transformers import GPT2LMHeadModel; GPT2LMHeadModel.from_pretrained('my_model')"

Takes the newest good checkpoint. Expect config.json, generation_config.json and model.safetensors, with the logits of
the run's own model; a vocabulary padded for speed stays padded. The tokenizer is not part of it.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml
from safetensors.torch import load_file

from conventions.keywords import bind
from conventions.sentence import one_sentence
from harness.checkpoint import newest
from models import build_model, find
from models.gpt import GPT
from models.hf import to_transformers


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("output", type=Path, help="folder to write; must not exist yet")
    options = parser.parse_args(arguments)
    with one_sentence():
        if options.output.exists():
            raise FileExistsError(f"{options.output} is there already: give the name of a new folder")
        model, step = load_run(options.run)
        save(model, options.output)
    print(f"wrote {options.output}: the weights of {options.run} after {step:,} updates")


def load_run(run: Path) -> tuple[GPT, int]:
    """The model of a run as its newest good checkpoint has it, and how many updates that is.

    Raises FileNotFoundError where the folder is no run or holds no checkpoint yet, ValueError where none is whole.
    """
    if not (run / "config.yaml").is_file():
        raise FileNotFoundError(f"{run} is no run: it holds no config.yaml")
    section = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["model"]
    found = newest(run / "checkpoints")
    if found is None:
        raise FileNotFoundError(f"{run} holds no checkpoint yet: let it run on to one, or set checkpoint.every lower")
    if find(section["family"]) is not GPT:
        raise ValueError(f"{run}: model.family={section['family']} is not GPT-2, which alone converts")
    path, state = found
    weights = load_file(path / "model.safetensors")
    vocabulary = len(weights["embedding.weight"])  # the config may say auto
    keywords = bind(find(section["family"]), {**section, "vocabulary": vocabulary}, "model")
    model = build_model(section["family"], 0, **keywords)
    assert isinstance(model, GPT)
    model.load_state_dict(weights)
    return model, state["step"]


def save(model: GPT, output: Path) -> None:
    """The folder, whole or not at all."""
    new = output.with_name(f".new-{output.name}")
    shutil.rmtree(new, ignore_errors=True)
    to_transformers(model).save_pretrained(new)
    new.rename(output)


if __name__ == "__main__":
    main()
