"""BERT's network and its relatives' as few operators, with no Python between them on a CPU.

transformers' own layer makes some twenty calls; on short texts the calls cost more than the work. After
each call Python also waits for its lock (the GIL), which a replica's event loop takes in turn.
"""

# no postponed annotations here: TorchScript reads the types

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deployments.core.engine.attention import Rule, attend_in_blocks
from deployments.core.engine.cpu.linear import Packing, PlainLinear
from deployments.core.engine.layout import Group, longest_block

PackedBody = Callable[[Tensor, Tensor, list[Group]], Tensor]


@dataclass(frozen=True)
class _Layer:
    """The parts of one layer, whatever a model calls them."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attended: nn.Linear
    attention_norm: nn.Module
    inner: nn.Linear
    outer: nn.Linear
    norm: nn.Module


@dataclass(frozen=True)
class _Network:
    """The layers of a network, its activation, and what its token embeddings add besides positions.

    ``bias`` ``(1, heads, length, length)`` is added to the attention scores of every layer.
    """

    layers: list[_Layer]
    activation: str
    token_type: Tensor | None = None
    bias: Tensor | None = None


def _bert(model: Any) -> _Network:
    layers = [
        _Layer(
            layer.attention.self.query,
            layer.attention.self.key,
            layer.attention.self.value,
            layer.attention.output.dense,
            layer.attention.output.LayerNorm,
            layer.intermediate.dense,
            layer.output.dense,
            layer.output.LayerNorm,
        )
        for layer in model.encoder.layer
    ]
    token_type = model.embeddings.token_type_embeddings.weight[0]
    return _Network(layers, model.config.hidden_act, token_type)


def _distilbert(model: Any) -> _Network:
    layers = [
        _Layer(
            layer.attention.q_lin,
            layer.attention.k_lin,
            layer.attention.v_lin,
            layer.attention.out_lin,
            layer.sa_layer_norm,
            layer.ffn.lin1,
            layer.ffn.lin2,
            layer.output_layer_norm,
        )
        for layer in model.transformer.layer
    ]
    return _Network(layers, model.config.activation)


def _mpnet(model: Any) -> _Network:
    layers = [
        _Layer(
            layer.attention.attn.q,
            layer.attention.attn.k,
            layer.attention.attn.v,
            layer.attention.attn.o,
            layer.attention.LayerNorm,
            layer.intermediate.dense,
            layer.output.dense,
            layer.output.LayerNorm,
        )
        for layer in model.encoder.layer
    ]
    longest = longest_block(model.config.max_position_embeddings)
    like = model.encoder.relative_attention_bias.weight.new_empty(1, longest, 1)
    return _Network(layers, model.config.hidden_act, bias=model.encoder.compute_position_bias(like))


_NETWORKS: dict[str, Callable[[Any], _Network]] = {
    "bert": _bert,
    "xlm-roberta": _bert,
    "roberta": _bert,
    "camembert": _bert,
    "distilbert": _distilbert,
    "mpnet": _mpnet,
}


class PackedLayer(nn.Module):
    """Computes one layer of such a network, for inference only."""

    def __init__(self, layer: _Layer, heads: int, packing: Packing) -> None:
        super().__init__()
        linear = packing.linear
        self._heads = heads
        self._states = linear(layer.query, layer.key, layer.value)
        self._attended = linear(layer.attended)
        self._attention_norm = layer.attention_norm
        self._inner = linear(layer.inner, activation="gelu")
        self._outer = linear(layer.outer)
        self._norm = layer.norm

    def forward(self, hidden: Tensor, groups: list[Group], rule: Rule) -> Tensor:
        """Returns ``hidden`` ``(tokens, dimension)`` one layer on."""
        states = self._states(hidden).view(hidden.size(0), 3 * self._heads, -1)
        attended = attend_in_blocks(states, self._heads, groups, rule).view(hidden.size())
        hidden = self._attention_norm(self._attended.plus(attended, hidden))
        output: Tensor = self._norm(self._outer.plus(self._inner(hidden), hidden))
        return output


class PackedNetwork(nn.Module):
    """Computes what a transformers model like BERT does without its pooler, for texts back to back."""

    _token_type: Tensor | None
    _bias: Tensor | None

    def __init__(self, model: Any, network: _Network, packing: Packing) -> None:
        super().__init__()
        self._words = model.embeddings.word_embeddings
        self._positions = model.embeddings.position_embeddings
        self._norm = model.embeddings.LayerNorm
        heads = int(model.config.num_attention_heads)
        self._layers = nn.ModuleList(PackedLayer(part, heads, packing) for part in network.layers)
        self.register_buffer("_token_type", network.token_type)
        self.register_buffer("_bias", network.bias)

    def forward(self, ids: Tensor, positions: Tensor, groups: list[Group]) -> Tensor:
        """Returns ``(tokens, dimension)`` for int64 ids and positions ``(tokens,)``."""
        hidden: Tensor = self._words(ids)
        token_type = self._token_type
        if token_type is not None:
            hidden = hidden + token_type
        hidden = self._norm(hidden + self._positions(positions))
        rule = Rule(bias=self._bias)
        for layer in self._layers:
            hidden = layer(hidden, groups, rule)
        return hidden


@torch.inference_mode()
def pack_network(model: Any, packing: Packing) -> PackedBody | None:
    """Returns the network of a transformers model like BERT as TorchScript; None for any other model.

    TorchScript is deprecated, but what replaces it keeps Python around the calls or needs a C++ compiler
    on the machine.
    """
    network = _packed(model, packing)
    if network is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted: PackedBody = torch.jit.script(network)
    return scripted


@torch.inference_mode()
def unscripted_network(model: Any, dtype: torch.dtype) -> PackedBody:
    """Returns the same network for a GPU, where Python runs ahead of the kernels.

    Raises ValueError if the model is not like BERT.
    """
    network = _packed(model, Packing(PlainLinear, dtype, dtype))
    if network is None:
        raise ValueError(f"the network of {model.config.model_type} is not known")
    return network


def _packed(model: Any, packing: Packing) -> PackedNetwork | None:
    make = _NETWORKS.get(model.config.model_type)
    if make is None or getattr(model.config, "is_decoder", False):
        return None
    network = make(model)
    if network.activation != "gelu":
        return None
    return PackedNetwork(model, network, packing).to(packing.computes_in).eval()
