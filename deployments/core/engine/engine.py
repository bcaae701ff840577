"""One model on one device. The engine knows token ids and vectors only.

It does not know texts, prompts, requests, lanes or Ray. One call is one forward pass; who shares
it is decided by `lanes` online and by `packing` where all texts are at hand.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from deployments.core.batch import TokenBatch, Vectors
from deployments.core.engine.attention import COUNTS_FROM_PADDING, FLAT
from deployments.core.engine.cpu.linear import TooLargeForFloat16, choose_packing
from deployments.core.engine.cpu.pass_threads import PassThreads
from deployments.core.engine.device import choose_device, choose_dtype
from deployments.core.engine.networks import FlatNetwork, PaddedNetwork
from deployments.core.engine.pretrained import load_pretrained
from deployments.core.engine.warmup import sample
from deployments.core.models.spec import ModelSpec

log = logging.getLogger(__name__)


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
        self.pads = spec.backbone not in COUNTS_FROM_PADDING
        self._load_as(dtype, spec, model_dir)
        self._threads = PassThreads(threads or torch.get_num_threads())

    def _load_as(self, wanted: str, spec: ModelSpec, model_dir: Path) -> None:
        try:
            self._load(spec, model_dir, choose_dtype(spec, self.device, wanted))
            return
        except TooLargeForFloat16 as reason:
            if wanted != "auto":
                raise
            log.warning("%s runs in float32: %s", spec.name, reason.message)
        # not in the handler: until it ends, its traceback keeps the first weights in memory
        self._load(spec, model_dir, torch.float32)

    def _load(self, spec: ModelSpec, model_dir: Path, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._packing = packing = choose_packing(self.device, dtype)
        loaded = packing.loads if packing else dtype
        model = load_pretrained(spec, model_dir, loaded, self.device, None if self.pads else FLAT)
        self.dimension = int(model.config.hidden_size)
        self.vocabulary = int(model.config.vocab_size)
        kind = PaddedNetwork if self.pads else FlatNetwork
        network = kind(spec, model, self.device, packing)
        if self.computes_in is torch.float16:
            _refuse_overflow(network, sample(self, 8, min(32, spec.max_tokens)))
        self._network = network

    @property
    def computes_in(self) -> torch.dtype:
        """The precision of all but the weights: on some CPUs wider than theirs."""
        return self._packing.computes_in if self._packing else self.dtype

    def rounded(self, tokens: int) -> int:
        """Returns the tokens that a pass of ``tokens`` computes: a few more on some devices."""
        return self._network.rounded(tokens)

    def slow_at_first(self, most: int) -> list[int]:
        """Returns the numbers of tokens, up to about ``most``, whose first pass takes long."""
        return self._packing.slow_at_first(most) if self._packing else []

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

    def free_memory(self) -> None:
        """Gives the memory that torch keeps for later passes back to the GPU."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _run(self, batch: TokenBatch, threads: int) -> Vectors:
        if self.device.type == "cpu":
            torch.set_num_threads(threads)  # of the thread that calls
        return self._network(batch)


@torch.inference_mode()
def _refuse_overflow(network: FlatNetwork | PaddedNetwork, batch: TokenBatch) -> None:
    """Weights that float16 can hold may give states that it cannot."""
    if not np.isfinite(network(batch)).all():
        raise TooLargeForFloat16(
            "its vectors are not finite in float16: set the model's `dtype` to float32 or bfloat16"
        )
