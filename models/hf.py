"""Models convert to and from Hugging Face's transformers with equal logits: for evaluation suites and sharing."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor

from conventions.sentence import sentence
from models.base import LanguageModel
from models.bert import BERT
from models.gpt import GPT
from models.hf_bert import from_bert, to_bert
from models.hf_gpt2 import from_gpt2, to_gpt2
from models.hf_llama import CLASSES, from_llama, to_llama
from models.llama import Llama

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TO: dict[type, Callable[..., "PreTrainedModel"]] = {GPT: to_gpt2, Llama: to_llama, BERT: to_bert}
FROM: dict[str, Callable[..., LanguageModel]] = {
    "GPT2LMHeadModel": from_gpt2,
    "BertForPreTraining": from_bert,
    "BertForMaskedLM": from_bert,
    **{f"{name}ForCausalLM": from_llama for name in CLASSES},
}


def check_converts(kind: type[LanguageModel]) -> None:
    """Raise ValueError for a class of model that does not convert."""
    if kind not in TO:
        raise ValueError(
            f"{kind.__name__} does not convert to transformers: only {', '.join(c.__name__ for c in TO)} do"
        )


def to_transformers(model: LanguageModel) -> "PreTrainedModel":
    """Make a model of transformers with the same logits, in fp32 on the CPU; `save_pretrained` makes a folder of it.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: transformers has no class that computes what this model does.
    """
    _transformers()
    check_converts(type(model))
    return TO[type(model)](model)


def for_evaluation(model: LanguageModel) -> "PreTrainedModel":
    """Make a model of transformers with the same logits for evaluation suites: ours itself where it has no class.

    Raises ModuleNotFoundError where transformers is not installed.
    """
    try:
        return to_transformers(model)
    except ValueError:
        from models.hf_own import OwnModel

        return OwnModel(model)


def from_transformers(theirs: "PreTrainedModel") -> LanguageModel:
    """Make a model of ours with the same logits as `theirs.eval()`, in fp32 on the CPU.

    Raises ValueError for a class or an option that no model here can represent.
    """
    name = type(theirs).__name__
    if name not in FROM:
        raise ValueError(f"{name} of transformers has no counterpart here: only {', '.join(FROM)} convert")
    return FROM[name](theirs)


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a folder that `save_pretrained` wrote, by our names.

    Raises ValueError for a class or an option that no model here can represent, or where transformers cannot load it.
    """
    transformers = _transformers()
    try:
        names = transformers.AutoConfig.from_pretrained(folder).architectures or []
        name = next((name for name in names if name in FROM), None)
        if name is None:
            raise ValueError(
                f"it is a {' or '.join(names) or 'model without a name'}, and only {', '.join(FROM)} convert"
            )
        theirs = getattr(transformers, name).from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"init_from={folder} cannot be loaded: {sentence(error)}") from None
    return from_transformers(theirs).state_dict()


def _transformers() -> ModuleType:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("transformers is not installed: pip install transformers") from error
    return transformers
