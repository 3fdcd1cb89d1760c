"""GPT converts to and from Hugging Face's GPT2LMHeadModel with equal logits.

Hugging Face keeps the matrices of a block transposed (its Conv1D) and always has biases, which are zero where ours has
none. Padded rows of the vocabulary go along.
"""

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.gpt import GPT
from models.hf_names import Names, refuse_other

if TYPE_CHECKING:
    from transformers import GPT2Config, GPT2LMHeadModel

END_OF_TEXT = 50256  # in GPT-2's BPE; smaller vocabularies are not that

NAMES = Names(
    outside={"embedding": "transformer.wte", "positions": "transformer.wpe", "norm": "transformer.ln_f"},
    inside={
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.projection": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    },
    blocks="transformer.h",
)


def to_gpt2(model: GPT) -> "GPT2LMHeadModel":
    """Make a GPT2LMHeadModel with the same logits, in fp32 on the CPU; `save_pretrained` makes a folder of it.

    Raises ModuleNotFoundError where transformers is not installed.
    """
    import transformers

    vocabulary, width = model.embedding.weight.shape
    end = END_OF_TEXT if vocabulary > END_OF_TEXT else None
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=model.context,
        n_embd=width,
        n_layer=len(model.blocks),
        n_head=model.heads,
        activation_function="gelu",  # exact; the default there is the tanh approximation
        scale_attn_by_inverse_layer_idx=model.scale_attention_by_layer,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    theirs = transformers.GPT2LMHeadModel(config)
    ours = {NAMES.theirs(name): tensor for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(_transposed(name, ours[name]) if name in ours else torch.zeros(()))
    return theirs.eval()


def from_gpt2(theirs: "GPT2LMHeadModel") -> GPT:
    """Make a GPT with the same logits as `theirs.eval()`, in fp32 on the CPU; no biases if all of theirs are zero.

    Raises ValueError for what this model cannot represent.
    """
    _check(theirs.config)
    weights = {name: tensor.detach() for name, tensor in theirs.named_parameters()}
    config = theirs.config
    model = GPT(
        layers=config.n_layer,
        heads=config.n_head,
        width=config.n_embd,
        context=config.n_positions,
        vocabulary=config.vocab_size,
        bias=any(bool(tensor.any()) for name, tensor in weights.items() if name.endswith("bias")),
        scale_attention_by_layer=config.scale_attn_by_inverse_layer_idx,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_transposed(NAMES.theirs(name), weights[NAMES.theirs(name)]))
    return model


def _check(config: "GPT2Config") -> None:
    wanted = {
        "activation_function": ("gelu",),
        "n_inner": (None, 4 * config.n_embd),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "tie_word_embeddings": (True,),
        "add_cross_attention": (False,),
    }
    refuse_other({key: getattr(config, key) for key in wanted}, wanted)


def _transposed(name: str, tensor: Tensor) -> Tensor:
    """Transpose what their Conv1D holds as (inputs, outputs) and nn.Linear as (outputs, inputs)."""
    return tensor.T if re.search(r"c_(attn|proj|fc)\.weight$", name) else tensor
