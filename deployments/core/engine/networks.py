"""A model's forward pass: token ids in, pooled vectors out, with padding or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from deployments.core.batch import TokenBatch, Vectors
from deployments.core.engine.attention import CAUSAL, COUNTS_FROM_PADDING, can_fuse, head_width
from deployments.core.engine.cpu.encoder import pack_network
from deployments.core.engine.cpu.linear import Packing, pack_linears
from deployments.core.engine.cuda.graphs import GraphedNetwork
from deployments.core.engine.layout import Layout, to_device
from deployments.core.engine.pooling import FLAT_POOLERS, POOLERS
from deployments.core.models.spec import ModelSpec

# int64 ids and positions (tokens,) and where the texts stand -> (tokens, dimension)
_Body = Callable[[Tensor, Tensor, Layout], Tensor]


class FlatNetwork:
    """Runs texts back to back without padding, for backbones whose attention is known."""

    def __init__(
        self, spec: ModelSpec, model: PreTrainedModel, device: torch.device, packing: Packing | None
    ) -> None:
        """``packing`` says how linear layers are laid out for the CPU."""
        self._device, self._dtype = device, packing.computes_in if packing else model.dtype
        self._pool = FLAT_POOLERS[spec.pooling]
        self._dimension = spec.dimension
        self._pad_id = int(model.config.pad_token_id or 0)
        self._causal = spec.backbone in CAUSAL
        self._counts_from_padding = COUNTS_FROM_PADDING.get(spec.backbone, False)
        self._body = _body(model, packing)
        self.rounded: Callable[[int], int] = packing.rounded if packing else int
        if can_fuse(device, self._dtype, head_width(model.config)):
            self._body = graphed = GraphedNetwork(self._body, spec.max_tokens, device)
            self.rounded = graphed.rounded

    def __call__(self, batch: TokenBatch) -> Vectors:
        """Runs one pass, longest text first; returns float32 ``(texts, dimension)`` in batch order."""
        order = np.argsort(-batch.lengths, kind="stable")
        vectors = np.empty((len(batch), self._dimension), np.float32)
        vectors[order] = self._sorted(batch.select(order.tolist()))
        return vectors

    def _sorted(self, batch: TokenBatch) -> Vectors:
        layout = Layout(batch.lengths.tolist(), self._device, self._dtype, self._causal)
        ids, positions = self._row(batch.ids), self._row(self._positions(batch))
        hidden = self._body(ids, positions, layout)
        counts = to_device(batch.lengths.astype(np.int64), self._device)
        # pool without padding: one long text among hundreds would take more memory than the pass
        return cast(Vectors, self._pool(hidden[: batch.tokens], counts).cpu().numpy())

    def _row(self, numbers: npt.NDArray[np.integer[Any]]) -> Tensor:
        """Returns int64 ``(tokens,)`` on the device, with zeros up to the rounded size."""
        row = np.zeros(self.rounded(len(numbers)), np.int64)
        row[: len(numbers)] = numbers
        return to_device(row, self._device)

    def _positions(self, batch: TokenBatch) -> npt.NDArray[np.int64]:
        """Returns each token's position; RoBERTa does not count padding ids that a text contains."""
        if not self._counts_from_padding:
            return np.concatenate([np.arange(n) for n in batch.lengths])
        real = batch.ids != self._pad_id
        counted = [np.cumsum(r) for r in np.split(real, batch.offsets[1:-1])]
        positions: npt.NDArray[np.int64] = np.concatenate(counted) * real + self._pad_id
        return positions


class PaddedNetwork:
    """Runs texts padded to the longest, for backbones whose attention is not known."""

    def __init__(
        self, spec: ModelSpec, model: PreTrainedModel, device: torch.device, packing: Packing | None
    ) -> None:
        """``packing`` says how linear layers are laid out for the CPU."""
        self._device = device
        self._pool = POOLERS[spec.pooling]
        self._pad_id = int(model.config.pad_token_id or 0)
        self._body = pack_linears(model, packing) if packing else model
        self.rounded: Callable[[int], int] = int

    def __call__(self, batch: TokenBatch) -> Vectors:
        """Runs one pass; returns float32 ``(texts, dimension)``."""
        ids, mask = (to_device(array, self._device) for array in batch.padded(self._pad_id))
        hidden = self._body(input_ids=ids, attention_mask=mask).last_hidden_state
        return cast(Vectors, self._pool(hidden, mask).cpu().numpy())


def _body(model: PreTrainedModel, packing: Packing | None) -> _Body:
    if packing and (packed := pack_network(model, packing)):
        return lambda ids, positions, layout: packed(ids, positions, layout.groups)
    whole = pack_linears(model, packing) if packing else model
    return lambda ids, positions, layout: whole(
        input_ids=ids[None], position_ids=positions[None], layout=layout
    ).last_hidden_state[0]
