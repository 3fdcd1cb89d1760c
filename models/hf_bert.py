"""BERT converts to and from transformers' BertForPreTraining and BertForMaskedLM with equal logits.

Which half of a sequence a token belongs to, `token_type_ids` there, follows from its place here: pass zeros, or with
next-sentence prediction ones from the place after [CLS] A [SEP] on.
"""

from typing import TYPE_CHECKING

import torch

from models.bert import BERT, EPS, EncoderBlock
from models.hf_names import Names, refuse_other

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAMES = Names(
    outside={
        "embedding": "bert.embeddings.word_embeddings",
        "positions": "bert.embeddings.position_embeddings",
        "segments": "bert.embeddings.token_type_embeddings",
        "embedding_norm": "bert.embeddings.LayerNorm",
        "transform": "cls.predictions.transform.dense",
        "transform_norm": "cls.predictions.transform.LayerNorm",
        "pooler": "bert.pooler.dense",
        "follows": "cls.seq_relationship",
    },
    inside={
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.projection": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "mlp_norm": "output.LayerNorm",
    },
    blocks="bert.encoder.layer",
)


def to_bert(model: BERT) -> "PreTrainedModel":
    """Make a BertForPreTraining, or a BertForMaskedLM without next-sentence prediction, in fp32 on the CPU."""
    import transformers

    block = model.blocks[0]
    assert isinstance(block, EncoderBlock)
    vocabulary, width = model.embedding.weight.shape
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=block.attention.heads,
        intermediate_size=len(block.up.weight),
        hidden_act="gelu",
        max_position_embeddings=model.context,
        layer_norm_eps=EPS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    kind = transformers.BertForPreTraining if model.masking.next_sentence else transformers.BertForMaskedLM
    theirs = kind(config)
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            weights[_their_name(name)].copy_(parameter)
    return theirs.eval()


def from_bert(theirs: "PreTrainedModel") -> BERT:
    """Make a BERT with the same logits as `theirs.eval()`, in fp32 on the CPU.

    Raises ValueError for what this model cannot represent.
    """
    config = theirs.config
    wanted = {
        "hidden_act": ("gelu",), "type_vocab_size": (2,), "layer_norm_eps": (EPS,), "tie_word_embeddings": (True,),
        "is_decoder": (False,),
    }  # fmt: skip
    refuse_other({key: getattr(config, key) for key in wanted}, wanted)
    weights = dict(theirs.named_parameters())
    model = BERT(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        width=config.hidden_size,
        hidden=config.intermediate_size,
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        next_sentence=NAMES.outside["follows"] + ".weight" in weights,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[_their_name(name)])
    return model


def _their_name(name: str) -> str:
    return "cls.predictions.bias" if name == "head_bias" else NAMES.theirs(name)
