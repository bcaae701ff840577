"""The fast path: token ids in, vectors out, texts back to back without padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from deployments.core.batch import TokenBatch, Vectors
from deployments.core.engine.attention import FLAT, can_fuse, head_width
from deployments.core.engine.backbones import FAST, is_causal, is_plain
from deployments.core.engine.cpu.encoder import pack_network, unscripted_network
from deployments.core.engine.cpu.linear import Target, pack_linears
from deployments.core.engine.cuda.graphs import GraphedNetwork
from deployments.core.engine.heads import bake_token_types, has_token_types, scorer_of
from deployments.core.engine.layout import Layout, to_device
from deployments.core.engine.pooling import POOLERS
from deployments.core.engine.pretrained import load_pretrained, load_with_head, positions_of
from deployments.core.models.modules import listed_modules
from deployments.core.models.spec import Kind, ModelSpec

# int64 ids and positions (tokens,) and where the texts stand -> (tokens, dimension)
_Body = Callable[[Tensor, Tensor, Layout], Tensor]
# token vectors of a pass -> (texts, dimension)
_Tail = Callable[[Tensor, Layout], Tensor]


class FlatNetwork:
    """Runs texts back to back without padding, for the backbones of `backbones.FAST`."""

    pads = False

    def __init__(
        self,
        spec: ModelSpec,
        model_dir: Path,
        target: Target,
    ) -> None:
        """Loads the weights. Raises as `load_pretrained`."""
        self._device, self.computes_in = target.device, target.computes_in
        self.slow_at_first = target.slow_at_first
        folder = listed_modules(model_dir)[0].folder
        model, self._tail = _loaded(spec, model_dir, folder, target)
        self.vocabulary = _words(model).num_embeddings
        second_type = spec.pair_tokens.second_type if spec.pair_tokens else 0
        self.wants_prompts = second_type > 0 and has_token_types(model)
        if self.wants_prompts:
            bake_token_types(model, second_type)
        self.positions = positions_of(model)
        self.backbone = str(model.config.model_type)
        backbone = FAST[self.backbone]
        self._pad_id = _padding_index(model) if backbone.counts_from_padding else None
        self._causal = is_causal(model.config)
        self._body = _body(model, target)
        self.rounded: Callable[[int], int] = target.rounded
        is_fused = can_fuse(target.device, self.computes_in, head_width(model.config))
        if is_fused and not backbone.relative_bias:
            self._body = graphed = GraphedNetwork(self._body, spec.max_tokens, target.device)
            self.rounded = graphed.rounded

    def __call__(self, batch: TokenBatch) -> Vectors:
        """Runs one pass, longest text first; returns float32 ``(texts, dimension)`` in batch order."""
        order = np.argsort(-batch.lengths, kind="stable")
        found = self._sorted(batch.select(order.tolist()))
        vectors = np.empty_like(found)
        vectors[order] = found
        return vectors

    def _sorted(self, batch: TokenBatch) -> Vectors:
        layout = Layout(batch.lengths.tolist(), self._device, self.computes_in, self._causal)
        ids, positions = self._row(self._typed(batch)), self._row(self._positions(batch))
        hidden = self._body(ids, positions, layout)
        # pool without padding: one long text among hundreds would take more memory than the pass
        return cast(Vectors, self._tail(hidden[: batch.tokens], layout).cpu().numpy())

    def _row(self, numbers: npt.NDArray[np.integer[Any]]) -> Tensor:
        """Returns int64 ``(tokens,)`` on the device, with zeros up to the rounded size."""
        row = np.zeros(self.rounded(len(numbers)), np.int64)
        row[: len(numbers)] = numbers
        return to_device(row, self._device)

    def _typed(self, batch: TokenBatch) -> npt.NDArray[np.integer[Any]]:
        """Returns the ids, those of a pair's second text in the second half of the table of words."""
        if not self.wants_prompts or batch.prompts is None:
            return batch.ids
        places = np.arange(batch.tokens) - np.repeat(batch.offsets[:-1], batch.lengths)
        is_second = places >= np.repeat(batch.prompts[:, 1], batch.lengths)
        return batch.ids + self.vocabulary * is_second

    def _positions(self, batch: TokenBatch) -> npt.NDArray[np.int64]:
        """Returns each token's position; RoBERTa does not count padding ids that a text contains."""
        if self._pad_id is None:
            return np.concatenate([np.arange(n) for n in batch.lengths])
        real = batch.ids != self._pad_id
        counted = [np.cumsum(r) for r in np.split(real, batch.offsets[1:-1])]
        positions: npt.NDArray[np.int64] = np.concatenate(counted) * real + self._pad_id
        return positions


def _padding_index(model: PreTrainedModel) -> int:
    """Returns the id that a model counts positions from, which MPNet does not read from its config."""
    return int(_words(model).padding_idx or 0)


def _words(model: PreTrainedModel) -> torch.nn.Embedding:
    table = model.get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)
    return table


def _body(model: PreTrainedModel, target: Target) -> _Body:
    packing = target.packing
    packed = pack_network(model, packing) if packing else None
    if packed is None and FAST[model.config.model_type].relative_bias:
        packed = unscripted_network(model, target.computes_in)
    if packed is not None:
        network = packed
        return lambda ids, positions, layout: network(ids, positions, layout.groups)
    whole = pack_linears(model, packing) if packing else model
    return lambda ids, positions, layout: whole(
        input_ids=ids[None], position_ids=positions[None], layout=layout
    ).last_hidden_state[0]


def _loaded(
    spec: ModelSpec, model_dir: Path, folder: Path, target: Target
) -> tuple[PreTrainedModel, _Tail]:
    """Returns the backbone, and what makes vectors of its states, or logits."""
    if spec.kind is Kind.EMBEDDER:
        backbone = load_pretrained(folder, target.loads, target.device, FLAT)
        return backbone, _tail(spec, model_dir, target.device)
    causal = spec.question is not None
    model = load_with_head(folder, target.loads, target.device, FLAT, causal=causal)
    score = scorer_of(model, spec.answer_tokens)
    backbone = cast(PreTrainedModel, model.base_model)
    return backbone, lambda hidden, layout: score(hidden, layout.counts)


def _tail(spec: ModelSpec, model_dir: Path, device: torch.device) -> _Tail:
    """Returns what follows the transformer: a pooling, or the model's own modules if it has more."""
    if is_plain(model_dir):
        assert spec.pooling is not None
        pool = POOLERS[spec.pooling]
        return lambda hidden, layout: pool(hidden, layout.counts)
    from deployments.core.engine.modules import load_tail

    modules = load_tail(model_dir, listed_modules(model_dir)[1:])
    torch.nn.Module.to(modules, device)

    def run(hidden: Tensor, layout: Layout) -> Tensor:
        features = {"token_embeddings": hidden.float()[None], "cu_seq_lens_q": layout.ends}
        return cast(Tensor, modules(features)["sentence_embedding"])

    return run
