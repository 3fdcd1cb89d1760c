"""Llama converts to and from transformers' LlamaForCausalLM, Qwen3ForCausalLM and OlmoForCausalLM with equal logits.

Their names differ from ours, their arithmetic does not: Qwen3 adds a norm to each head's queries and keys, Olmo's
LayerNorms have no gain.
"""

from typing import TYPE_CHECKING, Any

import torch

from models.hf_names import Names, refuse_other
from models.llama import Llama, LlamaBlock

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NAMES = Names(
    outside={"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
    inside={
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.query_norm": "self_attn.q_norm",
        "attention.key_norm": "self_attn.k_norm",
        "attention.projection": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    },
    blocks="model.layers",
)
# transformers' name of the class, and what our keywords must be for it.
CLASSES: dict[str, dict[str, Any]] = {
    "Llama": {"mlp": "swiglu", "norm": "rms", "norm_gain": True, "qk_norm": "none"},
    "Qwen3": {"mlp": "swiglu", "norm": "rms", "norm_gain": True, "qk_norm": "head"},
    "Olmo": {"mlp": "swiglu", "norm": "layer", "norm_gain": False, "norm_eps": 1e-5, "qk_norm": "none"},
}


def to_llama(model: Llama) -> "PreTrainedModel":
    """Make a model of transformers with the same logits, in fp32 on the CPU.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: none of its classes computes what this model does.
    """
    import transformers

    block = model.blocks[0]
    assert isinstance(block, LlamaBlock)
    attention, mlp, norm = block.attention, block.mlp, model.norm
    options = {
        "mlp": "gelu" if mlp.gate is None else "swiglu",
        "norm": norm.kind,
        "norm_gain": norm.weight is not None,
        "norm_eps": norm.eps,
        "qk_norm": attention.qk_norm,
    }
    name = next((n for n, wanted in CLASSES.items() if all(options[k] == v for k, v in wanted.items())), None)
    if name is None:
        kinds = "; ".join(f"{n}: {', '.join(f'{k}={v}' for k, v in wanted.items())}" for n, wanted in CLASSES.items())
        raise ValueError(
            f"transformers has no class with {', '.join(f'{k}={v}' for k, v in options.items())}; it has {kinds}"
        )
    vocabulary, width = model.embedding.weight.shape
    config = getattr(transformers, f"{name}Config")(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=len(mlp.up.weight),
        num_hidden_layers=len(model.blocks),
        num_attention_heads=attention.heads,
        num_key_value_heads=attention.kv_heads,
        head_dim=width // attention.heads,
        hidden_act="silu",
        max_position_embeddings=model.context,
        rms_norm_eps=norm.eps,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        tie_word_embeddings=model.head is None,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    theirs = getattr(transformers, f"{name}ForCausalLM")(config)
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            place, fused, rest = key.partition(".qkv.")
            parts = parameter.split(attention.rows) if fused else [parameter]
            for name, part in zip(["query", "key", "value"] if fused else [""], parts, strict=True):
                weights[NAMES.theirs(f"{place}.{name}.{rest}" if fused else key)].copy_(part)
    return theirs.eval()


def from_llama(theirs: "PreTrainedModel") -> Llama:
    """Make a Llama with the same logits as `theirs.eval()`, in fp32 on the CPU.

    Raises ValueError for what this model cannot represent.
    """
    config = theirs.config
    name = type(theirs).__name__.removesuffix("ForCausalLM")
    _check(config)
    rope = config.rope_parameters
    model = Llama(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        width=config.hidden_size,
        hidden=config.intermediate_size,
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        rope_theta=rope["rope_theta"],
        **{"norm_eps": getattr(config, "rms_norm_eps", 1e-5), **CLASSES[name]},
    )
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(weights[NAMES.theirs(key)])
    return model


def _check(config: "PretrainedConfig") -> None:
    wanted = {
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "clip_qkv": (None,),
        "use_sliding_window": (False, None),
        "head_dim": (None, config.hidden_size // config.num_attention_heads),
    }
    values = {key: getattr(config, key, None) for key in wanted}
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    refuse_other({**values, "rope_type": kind}, {**wanted, "rope_type": ("default",)})
