"""One model on one device. The engine knows token ids and vectors only.

It does not know texts, prompts, requests, lanes or Ray. One call of `TorchEngine.forward` is one forward
pass; the caller decides which texts share it (in a replica, `Lanes`).
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from deployments.core.batch import AnyVectors, TokenBatch
from deployments.core.engine.backbones import why_not_fast
from deployments.core.engine.cpu.linear import (
    Target,
    TooLargeForFloat16,
    UnsupportedPrecision,
    choose_packing,
)
from deployments.core.engine.cpu.pass_threads import PassThreads
from deployments.core.engine.device import choose_device, choose_dtype
from deployments.core.engine.interface import Network
from deployments.core.engine.networks import FlatNetwork
from deployments.core.engine.warmup import sample
from deployments.core.errors import UnsupportedModel
from deployments.core.models.spec import ModelSpec, other_model
from deployments.core.sparse import SparseVectors

if TYPE_CHECKING:
    from deployments.core.engine.general import GeneralNetwork

log = logging.getLogger(__name__)


class TorchEngine:
    """A model in evaluation mode, on the fast path or on the general one."""

    def __init__(  # noqa: PLR0913
        self,
        spec: ModelSpec,
        model_dir: Path,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        *,
        network: Network = Network.AUTO,
        trust_remote_code: bool = False,
    ) -> None:
        """Loads the weights. A reranker's texts are pairs, and its vectors are logits (`GeneralNetwork`).

        ``threads`` is how many threads compute a pass on a CPU; the default is torch's setting. Code
        from the model's repository runs only with ``trust_remote_code``, here or in ``spec``. Raises
        UnsupportedModel if the files are not the model that ``spec`` describes or cannot run with this
        device, dtype and network, ModelUnavailable if they cannot be read.
        """
        self.device = choose_device(device)
        self._trust_remote_code = trust_remote_code or spec.trust_remote_code
        self.why_general = _why_general(spec, model_dir, network)
        self._load_as(dtype, spec, model_dir)
        self._threads = PassThreads(threads or torch.get_num_threads())

    @property
    def network(self) -> Network:
        """The path that this model takes. Where it is the general one, ``why_general`` says why."""
        return Network.FAST if self.why_general is None else Network.GENERAL

    @property
    def wants_prompts(self) -> bool:
        """Whether vectors depend on `TokenBatch.prompts`; without them, texts are bare documents."""
        return self._network.wants_prompts

    @property
    def pads(self) -> bool:
        """Whether a pass costs longest × rows, or the sum of its tokens."""
        return self._network.pads

    def _load_as(self, wanted: str, spec: ModelSpec, model_dir: Path) -> None:
        try:
            self._load(spec, model_dir, choose_dtype(spec, self.device, wanted))
            return
        except UnsupportedPrecision as reason:
            if wanted != "auto":
                raise
            log.warning("%s runs in float32: %s", spec.name, reason.message)
        # outside the handler, where the traceback would keep the first weights in memory
        self._load(spec, model_dir, torch.float32)

    def _load(self, spec: ModelSpec, model_dir: Path, dtype: torch.dtype) -> None:
        self.dtype = dtype
        target = Target(self.device, dtype, choose_packing(self.device, dtype))
        if self.why_general is None:
            network: FlatNetwork | GeneralNetwork = FlatNetwork(spec, model_dir, target)
        else:
            from deployments.core.engine.general import load_general  # takes seconds to import

            network = load_general(spec, model_dir, target, self._trust_remote_code)
        self.vocabulary = network.vocabulary
        self.dimension = _check(spec, network)
        self._network = network

    @property
    def computes_in(self) -> torch.dtype:
        """The precision of everything but the weights; on some CPUs wider than theirs."""
        return self._network.computes_in

    def rounded(self, tokens: int) -> int:
        """Returns how many tokens a pass of ``tokens`` computes: on some devices a few more."""
        return self._network.rounded(tokens)

    def slow_at_first(self, most: int) -> list[int]:
        """Returns the numbers of tokens, up to about ``most``, whose first pass takes long."""
        return self._network.slow_at_first(most)

    def lend_threads(self, most: int, max_tokens: int) -> bool:
        """Lets a single text on a CPU use up to ``most`` threads if that is faster.

        Measures it with texts of up to ``max_tokens``. Returns whether it is faster for any of them.
        """
        on_cpu = self.device.type == "cpu"
        return on_cpu and self._threads.lend(most, max_tokens, self._seconds)

    def _seconds(self, tokens: int, threads: int) -> float:
        text = sample(self, 1, tokens)
        started = time.perf_counter()
        self._run(text, threads)
        return time.perf_counter() - started

    def forward(self, batch: TokenBatch) -> AnyVectors:
        """Returns float32 ``(texts, dimension)``, pooled and not normalised, in the batch's order.

        Those of a sparse model are `SparseVectors`.
        """
        return self._threads.run(len(batch), batch.tokens, partial(self._run, batch))

    def free_memory(self) -> None:
        """Gives the memory that torch keeps for later passes back to the GPU."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _run(self, batch: TokenBatch, threads: int) -> AnyVectors:
        if self.device.type == "cpu":
            torch.set_num_threads(threads)  # applies to the calling thread only
        return self._network(batch)


def _why_general(spec: ModelSpec, model_dir: Path, network: Network) -> str | None:
    """Returns why the model takes the general path, or None if it takes the fast one."""
    if network is Network.GENERAL:
        return "the config asks for it"
    problem = why_not_fast(spec, model_dir)
    if network is Network.FAST and problem:
        raise UnsupportedModel(f"{spec.name} cannot take the fast path: {problem}")
    return problem


@torch.inference_mode()
def _check(spec: ModelSpec, network: FlatNetwork | GeneralNetwork) -> int:
    """Returns the dimension of a first pass's vectors.

    Raises UnsupportedModel if the model is not the one that ``spec`` describes, and TooLargeForFloat16
    if float16 holds the weights but not the states computed from them.
    """
    vectors = network(sample(network, 8, min(32, spec.max_tokens)))
    dimension = int(vectors.shape[1])
    if (network.backbone, dimension) != (spec.backbone, spec.dimension):
        raise other_model(spec, network.backbone, dimension)
    numbers = vectors.values if isinstance(vectors, SparseVectors) else vectors
    if network.computes_in is torch.float16 and not np.isfinite(numbers).all():
        raise TooLargeForFloat16(
            "its vectors overflow float16; set the model's `dtype` to float32 or bfloat16"
        )
    if spec.max_tokens > network.positions:
        raise UnsupportedModel(
            f"{spec.name} has positions for {network.positions} tokens, but its files state a limit of "
            f"{spec.max_tokens}; set max_seq_length in sentence_bert_config.json"
        )
    return dimension
