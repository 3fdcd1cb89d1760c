"""A model of ours works where a model of transformers is asked for, whether or not transformers has a class for it."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from models.base import LanguageModel


class OwnModel(PreTrainedModel, GenerationMixin):
    """`model(input_ids)` gives the logits (B, T, V) of a causal model of ours, which it holds and does not copy.

    It is for evaluation suites, which hold it in memory: there is no folder that transformers could load again.
    """

    config_class = PretrainedConfig

    def __init__(self, ours: LanguageModel) -> None:
        # `generate` makes a cache for so many layers, and ours fills none.
        sizes: dict[str, Any] = {"max_position_embeddings": ours.context, "num_hidden_layers": 0}
        super().__init__(PretrainedConfig(**sizes))
        self.post_init()
        self.ours = ours  # after post_init, which draws the weights of what is here anew
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> CausalLMOutput:
        """Return logits. attention_mask: (B, T), 0 for padding, which is left of a sequence or right of it.

        Ours has no mask: a sequence that is padded on its left is turned, so that its padding stands on the right,
        where a causal model does not see it.
        """
        if attention_mask is None:
            return CausalLMOutput(logits=self.ours(input_ids))
        first = attention_mask.argmax(1, keepdim=True)  # (B, 1), the place where padding on the left ends
        time = input_ids.size(1)
        places = torch.arange(time, device=input_ids.device)
        logits = self.ours(input_ids.gather(1, (places + first) % time))
        back = ((places - first) % time)[..., None].expand_as(logits)
        return CausalLMOutput(logits=logits.gather(1, back))

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, attention_mask: Tensor | None = None, **options: Any
    ) -> dict[str, Tensor | None]:
        """Give `forward` the whole sequence at each step of `generate`, since ours keeps no keys and values."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}
