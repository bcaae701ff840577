"""One model on one device. The engine knows token ids and vectors only.

It does not know texts, prompts, requests, lanes or Ray. One call is one forward pass; who shares
it is decided by `lanes` online and by `packing` where all texts are at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from deployments.embedding.batch import TokenBatch, Vectors
from deployments.embedding.batching.packing import pack
from deployments.embedding.engine.attention import (
    CAUSAL,
    COUNTS_FROM_PADDING,
    FLAT,
    can_fuse,
    head_width,
)
from deployments.embedding.engine.cpu_encoder import pack_network
from deployments.embedding.engine.cpu_linear import (
    all_rounded_rows,
    can_pack,
    pack_linears,
    rounded_rows,
)
from deployments.embedding.engine.cuda_graphs import GraphedNetwork
from deployments.embedding.engine.device import choose_device, choose_dtype
from deployments.embedding.engine.layout import Layout, to_device
from deployments.embedding.engine.pooling import FLAT_POOLERS, POOLERS
from deployments.embedding.engine.threads import Threads
from deployments.embedding.engine.warmup import sample
from deployments.embedding.errors import ModelUnavailable, UnsupportedModel
from deployments.embedding.models.model import ModelSpec

# int64 ids and positions (tokens,) and where the texts stand -> (tokens, dimension)
_FlatNetwork = Callable[[Tensor, Tensor, Layout], Tensor]


class Engine(Protocol):
    """What the encoder needs of an engine."""

    dimension: int
    vocabulary: int
    pads: bool  # whether a pass costs longest × rows, or the sum of its tokens

    def slow_at_first(self, most: int) -> list[int]:
        """Returns the numbers of tokens, up to about ``most``, whose first pass takes long."""
        ...

    def forward(self, batch: TokenBatch) -> Vectors:
        """Returns pooled, unnormalised float32 vectors ``(texts, dimension)`` of one pass.

        Several threads may call it at once.
        """
        ...


class TorchEngine:
    """A transformers model in evaluation mode, pooled in float32."""

    def __init__(
        self,
        spec: ModelSpec,
        model_dir: Path,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Loads the weights (safetensors only, no remote code).

        ``threads`` compute a pass on a CPU; by default as torch is set.
        Raises UnsupportedModel when the files are not the model that ``spec`` describes or cannot
        run as asked, ModelUnavailable when they cannot be read.
        """
        self.device = choose_device(device)
        self.dtype = choose_dtype(spec, self.device, dtype)
        self.pads = spec.backbone not in COUNTS_FROM_PADDING
        model = _load(model_dir, self.dtype, self.device, None if self.pads else FLAT)
        _check(spec, model)
        self._pooling = spec.pooling
        self._pad_id = int(model.config.pad_token_id or 0)
        self._causal = spec.backbone in CAUSAL
        self._counts_from_padding = COUNTS_FROM_PADDING.get(spec.backbone, False)
        self.dimension = int(model.config.hidden_size)
        self.vocabulary = int(model.config.vocab_size)
        self._packs = can_pack(self.device, self.dtype)
        self._threads = Threads(threads or torch.get_num_threads())
        # the tokens that a pass of so many computes
        self.rounded: Callable[[int], int] = int if self.pads or not self._packs else rounded_rows
        self._forward = self._padded_pass(model) if self.pads else self._flat_pass(spec, model)

    def _padded_pass(self, model: PreTrainedModel) -> Callable[[TokenBatch], Vectors]:
        return partial(self._padded, pack_linears(model) if self._packs else model)

    def _flat_pass(
        self, spec: ModelSpec, model: PreTrainedModel
    ) -> Callable[[TokenBatch], Vectors]:
        network = _flat_network(model, self._packs)
        if can_fuse(self.device, self.dtype, head_width(model.config)):
            network = graphed = GraphedNetwork(network, spec.max_tokens, self.device)
            self.rounded = graphed.rounded
        return partial(self._flat, network)

    def slow_at_first(self, most: int) -> list[int]:
        """Returns the numbers of tokens, up to about ``most``, whose first pass takes long."""
        return all_rounded_rows(most) if self._packs else []

    def lend_threads(self, most: int, max_tokens: int) -> bool:
        """From now on one text alone on a CPU has up to ``most`` threads, where that is faster.

        That is measured, with texts of up to ``max_tokens``. Returns whether it is so for any.
        """
        on_cpu = self.device.type == "cpu"
        return on_cpu and self._threads.lend(most, max_tokens, self._seconds)

    def _seconds(self, tokens: int, threads: int) -> float:
        text = sample(self, 1, tokens)
        started = time.perf_counter()
        self._run(text, threads)
        return time.perf_counter() - started

    def forward(self, batch: TokenBatch) -> Vectors:
        """Returns float32 ``(texts, dimension)``, pooled and not normalised, in the batch's order."""
        return self._threads.run(len(batch), batch.tokens, partial(self._run, batch))

    @torch.inference_mode()
    def _run(self, batch: TokenBatch, threads: int) -> Vectors:
        if self.device.type == "cpu":
            torch.set_num_threads(threads)  # of the thread that calls
        return self._forward(batch)

    def _flat(self, network: _FlatNetwork, batch: TokenBatch) -> Vectors:
        """One pass without padding, the longest text first."""
        order = np.argsort(-batch.lengths, kind="stable")
        vectors = np.empty((len(batch), self.dimension), np.float32)
        vectors[order] = self._sorted(network, batch.select(order.tolist()))
        return vectors

    def _sorted(self, network: _FlatNetwork, batch: TokenBatch) -> Vectors:
        lengths = batch.lengths.tolist()
        layout = Layout(lengths, self.device, self.dtype, self._causal)
        ids, positions = self._row(batch.ids), self._row(self._positions(batch))
        hidden = network(ids, positions, layout)
        counts = to_device(batch.lengths.astype(np.int64), self.device)
        # not padded: one long text among hundreds would take more memory than the pass
        pooled = FLAT_POOLERS[self._pooling](hidden[: batch.tokens], counts)
        return cast(Vectors, pooled.cpu().numpy())

    def _row(self, numbers: npt.NDArray[np.integer[Any]]) -> Tensor:
        """Returns int64 ``(tokens,)``; where sizes are rounded, with zeros behind the last text."""
        row = np.zeros(self.rounded(len(numbers)), np.int64)
        row[: len(numbers)] = numbers
        return to_device(row, self.device)

    def _positions(self, batch: TokenBatch) -> npt.NDArray[np.int64]:
        """Returns each token's position; RoBERTa's leave out the padding ids that a text spells."""
        if not self._counts_from_padding:
            return np.concatenate([np.arange(n) for n in batch.lengths])
        real = batch.ids != self._pad_id
        counted = [np.cumsum(r) for r in np.split(real, batch.offsets[1:-1])]
        positions: npt.NDArray[np.int64] = np.concatenate(counted) * real + self._pad_id
        return positions

    def _padded(self, network: PreTrainedModel, batch: TokenBatch) -> Vectors:
        """One pass for a model whose attention we do not know."""
        ids, mask = (to_device(array, self.device) for array in batch.padded(self._pad_id))
        found = network(input_ids=ids, attention_mask=mask)
        pooled = POOLERS[self._pooling](found.last_hidden_state, mask)
        return cast(Vectors, pooled.cpu().numpy())


def encode_all(engine: Engine, batch: TokenBatch, token_budget: int, streams: int = 1) -> Vectors:
    """Returns float32 ``(texts, dimension)`` for texts of any number, packed by token budget.

    ``streams`` passes run at once.
    """
    vectors = np.empty((len(batch), engine.dimension), np.float32)

    def run(rows: list[int]) -> None:
        vectors[rows] = engine.forward(batch.select(rows))

    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(run, pack(batch.lengths.tolist(), token_budget, engine.pads)))
    return vectors


def _flat_network(model: PreTrainedModel, packs: bool) -> _FlatNetwork:
    if packs and (packed := pack_network(model)):
        return lambda ids, positions, layout: packed(ids, positions, layout.groups)
    whole = pack_linears(model) if packs else model
    return lambda ids, positions, layout: whole(
        input_ids=ids[None], position_ids=positions[None], layout=layout
    ).last_hidden_state[0]


def _load(
    model_dir: Path, dtype: torch.dtype, device: torch.device, attention: str | None
) -> PreTrainedModel:
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, report = AutoModel.from_pretrained(
            model_dir,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelUnavailable(f"the weights in {model_dir} cannot be loaded: {error}") from error
    _refuse_missing_weights(model_dir, set(report["missing_keys"]))
    model.config.use_cache = False  # nothing is generated
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # computed, but read by no pooling of ours
    return cast(PreTrainedModel, torch.nn.Module.to(model, device).eval())


def _refuse_missing_weights(model_dir: Path, missing: set[str]) -> None:
    """Transformers fills missing weights with random numbers and only warns."""
    lost = sorted(key for key in missing if not key.startswith("pooler."))
    if lost:
        raise ModelUnavailable(
            f"the weights in {model_dir} lack {len(lost)} tensors, {lost[0]} among them: "
            "the files are damaged or of another model"
        )


def _check(spec: ModelSpec, model: PreTrainedModel) -> None:
    found = (str(model.config.model_type), int(model.config.hidden_size))
    if found != (spec.backbone, spec.dimension):
        raise UnsupportedModel(
            f"the files are a {found[0]} model of dimension {found[1]}, but {spec.name} is a "
            f"{spec.backbone} model of dimension {spec.dimension}: wrong `path`?"
        )
