"""How fast a device could encode with a model: its rate of matrix products ÷ operations per token."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig

from deployments.core.engine.backbones import is_causal

_ROWS = {"cpu": (256, 512, 1_024, 2_048), "cuda": (4_096, 16_384, 32_768)}
_UNGATED = frozenset({"bert", "xlm-roberta", "distilbert", "mpnet"})
_MAX_LAYERS = 6  # with weights of their own, so that they do not stay in the processor's cache
_SECONDS = 0.3
Multiply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Work:
    """The matrices of a model: ``(inputs, outputs)`` of each linear layer of one block."""

    linears: tuple[tuple[int, int], ...]
    layers: int
    attention_width: int
    causal: bool

    @classmethod
    def of(cls, config: PretrainedConfig) -> Work:
        """Reads the shapes from the config of a backbone on the fast path. Windows count as full."""
        size, heads = int(config.hidden_size), int(config.num_attention_heads)
        inner = int(getattr(config, "intermediate_size", None) or config.hidden_dim)
        width = int(getattr(config, "head_dim", None) or size // heads)
        keys = int(getattr(config, "num_key_value_heads", None) or heads) * width
        attention = ((size, heads * width), (size, keys), (size, keys), (heads * width, size))
        inwards = 1 if config.model_type in _UNGATED else 2
        mlp = (*[(size, inner)] * inwards, (inner, size))
        layers, causal = int(config.num_hidden_layers), is_causal(config)
        return cls((*attention, *mlp), layers, heads * width, causal)

    @property
    def linear_operations(self) -> int:
        """Operations per token in the linear layers of one block; a multiply-add counts two."""
        return sum(2 * inputs * outputs for inputs, outputs in self.linears)

    def operations(self, attended: float) -> float:
        """Operations per token if each attends to ``attended`` tokens on average."""
        scores_and_sums = 4 * attended * self.attention_width * (0.5 if self.causal else 1.0)
        return self.layers * (self.linear_operations + scores_and_sums)


class Bound:
    """Measures the rate of matrix products, with weights in the device's fastest layout.

    The number of rows (tokens of a pass) is the fastest of several.
    """

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.work = Work.of(config)
        self._device = device
        self._dtype = dtype
        self._blocks = [self._block() for _ in range(min(self.work.layers, _MAX_LAYERS))]
        self._rows = max(_ROWS[device.type], key=self._operations_per_s)

    def operations_per_s(self) -> float:
        """Measures the rate again, at the fastest number of rows."""
        return self._operations_per_s(self._rows)

    def tokens_per_s(self, attended: float, operations_per_s: float) -> float:
        """Returns the tokens a second of an engine that only multiplies, at this rate.

        Each token attends to ``attended`` others on average.
        """
        return operations_per_s / self.work.operations(attended)

    @torch.inference_mode()
    def _operations_per_s(self, rows: int) -> float:
        inputs = {n: self._random(rows, n) for n, _ in self.work.linears}
        self._run(inputs)
        started, runs = time.perf_counter(), 0
        while (seconds := time.perf_counter() - started) < _SECONDS:
            self._run(inputs)
            runs += 1
        return runs * len(self._blocks) * rows * self.work.linear_operations / seconds

    def _run(self, inputs: dict[int, Tensor]) -> None:
        for block in self._blocks:
            for (n, _), multiply in zip(self.work.linears, block, strict=True):
                multiply(inputs[n])
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @torch.inference_mode()
    def _block(self) -> list[Multiply]:
        return [self._multiply(n, m) for n, m in self.work.linears]

    def _multiply(self, inputs: int, outputs: int) -> Multiply:
        weight = self._random(outputs, inputs)
        if not _packs(self._device, self._dtype):
            return partial(_plain, weight=weight)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 512)
        return partial(_packed, weight=packed)

    def _random(self, rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, device=self._device, dtype=self._dtype)


def _plain(states: Tensor, weight: Tensor) -> Tensor:
    return F.linear(states, weight)


def _packed(states: Tensor, weight: Tensor) -> Tensor:
    products: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "")
    return products


def _packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN can lay weights out in advance (bfloat16, on a processor that has it)."""
    return (
        device.type == "cpu"
        and dtype is torch.bfloat16
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
