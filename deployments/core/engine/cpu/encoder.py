"""BERT's network on a CPU: few operators, and no Python between them.

transformers' own layer makes some twenty calls; on short texts the calls cost more than the work.
And after each call Python waits for its lock (the GIL), which a replica's event loop takes in turn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deployments.core.engine.attention import Rule, attend_in_blocks
from deployments.core.engine.cpu.linear import Packing
from deployments.core.engine.layout import Group

# these share BERT's network, by the same names of its parts
_LIKE_BERT = frozenset({"bert", "xlm-roberta", "roberta", "camembert"})

Network = Callable[[Tensor, Tensor, list[Group]], Tensor]


class PackedLayer(nn.Module):
    """Computes what a `BertLayer` does, for inference only."""

    def __init__(self, layer: Any, packing: Packing) -> None:
        super().__init__()
        attention, linear = layer.attention, packing.linear
        self._heads = int(attention.self.num_attention_heads)
        self._states = linear(attention.self.query, attention.self.key, attention.self.value)
        self._attended = linear(attention.output.dense)
        self._attention_norm = attention.output.LayerNorm
        self._inner = linear(layer.intermediate.dense, activation="gelu")
        self._outer = linear(layer.output.dense)
        self._norm = layer.output.LayerNorm

    def forward(self, hidden: Tensor, groups: list[Group]) -> Tensor:
        """Returns ``hidden`` ``(tokens, dimension)`` one layer on."""
        states = self._states(hidden).view(hidden.size(0), 3 * self._heads, -1)
        attended = attend_in_blocks(states, self._heads, groups, Rule()).view(hidden.size())
        hidden = self._attention_norm(self._attended.plus(attended, hidden))
        found: Tensor = self._norm(self._outer.plus(self._inner(hidden), hidden))
        return found


class PackedNetwork(nn.Module):
    """Computes what a `BertModel` without pooler does, for texts that stand one behind the other."""

    def __init__(self, model: Any, packing: Packing) -> None:
        super().__init__()
        self._words = model.embeddings.word_embeddings
        self._positions = model.embeddings.position_embeddings
        self._type = model.embeddings.token_type_embeddings.weight[0].to(packing.computes_in)
        self._norm = model.embeddings.LayerNorm
        self._layers = nn.ModuleList(PackedLayer(layer, packing) for layer in model.encoder.layer)

    def forward(self, ids: Tensor, positions: Tensor, groups: list[Group]) -> Tensor:
        """Returns ``(tokens, dimension)`` for int64 ids and positions ``(tokens,)``."""
        hidden: Tensor = self._norm(self._words(ids) + self._type + self._positions(positions))
        for layer in self._layers:
            hidden = layer(hidden, groups)
        return hidden


@torch.inference_mode()
def pack_network(model: Any, packing: Packing) -> Network | None:
    """Returns the network of a transformers model like BERT as TorchScript; None for another.

    TorchScript is deprecated, but what replaces it keeps Python around the calls or asks for a C++
    compiler on the machine.
    """
    config = model.config
    is_causal = getattr(config, "is_decoder", False)
    if config.model_type not in _LIKE_BERT or config.hidden_act != "gelu" or is_causal:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(PackedNetwork(model, packing).to(packing.computes_in).eval())
