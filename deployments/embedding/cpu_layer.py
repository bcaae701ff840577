"""BERT's layer on a CPU in half precision, by operators that each do several steps.

transformers' own layer makes some twenty calls; on short texts the calls cost more than the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deployments.embedding.attention import attend_in_blocks
from deployments.embedding.cpu_linear import PackedLinear
from deployments.embedding.layout import Layout

# these share BERT's layer, by the same names of its parts
_LIKE_BERT = frozenset({"bert", "xlm-roberta", "roberta", "camembert"})


class PackedLayer(nn.Module):
    """Computes what a `BertLayer` does, for inference only."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        attention: Any = layer.attention
        self._heads = int(attention.self.num_attention_heads)
        self._states = PackedLinear(attention.self.query, attention.self.key, attention.self.value)
        self._attended = PackedLinear(attention.output.dense)
        self._attention_norm = attention.output.LayerNorm
        inner: Any = layer.intermediate
        outer: Any = layer.output
        self._inner = PackedLinear(inner.dense, activation="gelu")
        self._outer = PackedLinear(outer.dense)
        self._norm = outer.LayerNorm

    def forward(self, hidden: Tensor, *ignored: Any, layout: Layout, **others: Any) -> Tensor:
        """Returns ``hidden`` ``(1, tokens, dimension)`` one layer on."""
        del ignored, others  # masks and caches, which a flat pass has none of
        states = self._states(hidden)[0].view(hidden.shape[1], 3 * self._heads, -1)
        attended = attend_in_blocks(states, self._heads, layout).reshape(hidden.shape)
        hidden = self._attention_norm(self._attended.plus(attended, hidden))
        found: Tensor = self._norm(self._outer.plus(self._inner(hidden), hidden))
        return found


@torch.inference_mode()
def pack_layers(model: Any) -> None:
    """Replaces each layer of a transformers model like BERT; others are left as they are."""
    config = model.config
    if config.model_type in _LIKE_BERT and config.hidden_act == "gelu":
        for i, layer in enumerate(model.encoder.layer):
            model.encoder.layer[i] = PackedLayer(layer)
