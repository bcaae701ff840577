"""One model on one device. The engine knows token ids and vectors only.

It does not know texts, prompts, requests, lanes or Ray. One call of `TorchEngine.forward` is one forward
pass; the caller decides which texts share it (in a replica, `Lanes`).
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

        ``threads`` is how many threads compute a pass on a CPU; the default is torch's setting. Raises
        UnsupportedModel if the files are not the model that ``spec`` describes or cannot run with this
        device and dtype, ModelUnavailable if they cannot be read.
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
        # outside the handler, where the traceback would keep the first weights in memory
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
        """The precision of everything but the weights; on some CPUs wider than theirs."""
        return self._packing.computes_in if self._packing else self.dtype

    def rounded(self, tokens: int) -> int:
        """Returns how many tokens a pass of ``tokens`` computes: on some devices a few more."""
        return self._network.rounded(tokens)

    def slow_at_first(self, most: int) -> list[int]:
        """Returns the numbers of tokens, up to about ``most``, whose first pass takes long."""
        return self._packing.slow_at_first(most) if self._packing else []

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
            torch.set_num_threads(threads)  # applies to the calling thread only
        return self._network(batch)


@torch.inference_mode()
def _refuse_overflow(network: FlatNetwork | PaddedNetwork, batch: TokenBatch) -> None:
    """Raises if float16 holds the weights but not the states computed from them."""
    if not np.isfinite(network(batch)).all():
        raise TooLargeForFloat16(
            "its vectors overflow float16; set the model's `dtype` to float32 or bfloat16"
        )
