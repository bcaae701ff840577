"""Linear layers for a CPU, with weights laid out once for the library that multiplies them.

PyTorch's own layer passes plain weights, which the library lays out again in each call, or reads from
memory at full width. On a short pass that takes half of the time or more. `choose_packing` says which of
these layers suits a processor.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.core.errors import UnsupportedModel

ModuleT = TypeVar("ModuleT", bound=nn.Module)
# rows of a pass that oneDNN's layout is chosen for; measured to matter little (benchmarks/log/2026-11.md)
_ROWS = 512

# oneDNN compiles a program for each new number of rows, which takes milliseconds, so use few numbers
_STEPS = ((128, 16), (256, 32), (1_024, 64))


class UnsupportedPrecision(UnsupportedModel):
    """The model cannot be computed in this precision."""

    code = "unsupported_precision"


class TooLargeForFloat16(UnsupportedPrecision):
    """Some weights, or what is computed with them, would become infinite."""

    code = "too_large_for_float16"


class PlainLinear(nn.Module):
    """Computes several ``nn.Linear`` side by side, for inference only."""

    def __init__(self, *linears: nn.Linear, activation: str = "none") -> None:
        """``activation`` is "none" or "gelu" (by the error function)."""
        super().__init__()
        self._is_gelu = activation == "gelu"
        self._lay_out(*_side_by_side(linears))

    def _lay_out(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def forward(self, states: Tensor) -> Tensor:
        """Returns ``states`` ``(..., in)`` as ``(..., out)``."""
        product = self._product(states)
        if self._is_gelu:
            torch.ops.aten.gelu_(product)
        return product

    def plus(self, states: Tensor, residual: Tensor) -> Tensor:
        """Returns the layer's output added to ``residual`` ``(..., out)``."""
        return self._product(states).add_(residual)

    def _product(self, states: Tensor) -> Tensor:
        return F.linear(states, self._weight, self._bias)


class OneDnnLinear(nn.Module):
    """The same in bfloat16, with weights laid out for oneDNN.

    It calls the operators that PyTorch's compiler emits for frozen weights. They also compute what
    follows a layer: an activation, or the sum with a residual.
    """

    def __init__(self, *linears: nn.Linear, activation: str = "none") -> None:
        """``activation`` as above."""
        super().__init__()
        weight, self._bias = _side_by_side(linears)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self._activation = activation

    def forward(self, states: Tensor) -> Tensor:
        """Returns ``states`` ``(..., in)`` as ``(..., out)``."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._weight, self._bias, self._activation, [], "none"
        )
        return product

    def plus(self, states: Tensor, residual: Tensor) -> Tensor:
        """Returns the layer's output added to ``residual`` ``(..., out)``."""
        total: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, residual, self._weight, self._bias, "add"
        )
        return total


class FbgemmLinear(PlainLinear):
    """The same with weights in float16, widened as they are read, and everything else in float32.

    A short pass reads half of the bytes and is two and a half times as fast (benchmarks/log/2026-11.md).
    """

    def _lay_out(self, weight: Tensor, bias: Tensor | None) -> None:
        """Raises TooLargeForFloat16."""
        if weight.abs().max() > torch.finfo(torch.float16).max:
            raise TooLargeForFloat16(
                "some of its weights are too large for float16; set the model's `dtype` to float32"
            )
        self._weights = torch.ops.quantized.linear_prepack_fp16(
            weight.float(), None if bias is None else bias.float()
        )

    def _product(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(states, self._weights)
        return product


def _side_by_side(linears: tuple[nn.Linear, ...]) -> tuple[Tensor, Tensor | None]:
    weights = [linear.weight.detach() for linear in linears]
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    return _joined(weights), _joined(biases) if biases else None


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


@dataclass(frozen=True)
class Packing:
    """Which ``linear`` layers a network gets, and the precision that it then ``computes_in``.

    ``loads`` is the precision that the weights are read in; None is the one they are stored in.
    ``steps`` are pairs: numbers of rows up to the first are rounded up to a multiple of the second.
    """

    linear: type[PlainLinear | OneDnnLinear | FbgemmLinear]
    computes_in: torch.dtype
    loads: torch.dtype | None
    steps: tuple[tuple[int, int], ...] = ()

    def rounded(self, rows: int) -> int:
        """Returns the number of rows to compute for this many, which may be a few more."""
        if not self.steps:
            return rows
        step = next((step for most, step in self.steps if rows <= most), 256)
        return -(-rows // step) * step

    def slow_at_first(self, most: int) -> list[int]:
        """Returns every number of rows, up to about ``most``, whose first pass takes long."""
        return sorted({self.rounded(rows) for rows in range(1, most + 1)}) if self.steps else []


PLAIN = Packing(PlainLinear, torch.float32, torch.float32)
ONE_DNN = Packing(OneDnnLinear, torch.bfloat16, torch.bfloat16, _STEPS)
FBGEMM = Packing(FbgemmLinear, torch.float32, None)


def choose_packing(device: torch.device, dtype: torch.dtype) -> Packing | None:
    """Returns how weights of this precision are laid out on this processor; None for PyTorch's layers."""
    if device.type != "cpu":
        return None
    if dtype is torch.float32:
        return PLAIN
    if dtype is torch.float16 and has_fbgemm():
        return FBGEMM
    return ONE_DNN if dtype is torch.bfloat16 and _has_one_dnn() else None


@dataclass(frozen=True)
class Target:
    """Where a model runs and in which precision; ``packing`` is that of its linear layers on a CPU."""

    device: torch.device
    dtype: torch.dtype
    packing: Packing | None

    @property
    def computes_in(self) -> torch.dtype:
        """The precision of everything but the weights."""
        return self.packing.computes_in if self.packing else self.dtype

    @property
    def loads(self) -> torch.dtype | None:
        """The precision that the weights are read in; None is the one they are stored in."""
        return self.packing.loads if self.packing else self.dtype

    def rounded(self, rows: int) -> int:
        """Returns the number of rows to compute for this many."""
        return self.packing.rounded(rows) if self.packing else rows

    def slow_at_first(self, most: int) -> list[int]:
        """Returns the numbers of tokens, up to about ``most``, whose first pass takes long."""
        return self.packing.slow_at_first(most) if self.packing else []


def has_fbgemm() -> bool:
    """Whether this build of PyTorch has FBGEMM and this processor has its instructions (AVX2).

    Some builds for ARM also list FBGEMM (pytorch/pytorch#180546).
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and "fbgemm" in torch.backends.quantized.supported_engines


def _has_one_dnn() -> bool:
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


@torch.inference_mode()
def pack_linears(model: ModuleT, packing: Packing) -> ModuleT:
    """Replaces each ``nn.Linear`` inside ``model``, frees its plain weights, and returns the model."""
    if packing.linear is not PlainLinear:
        _replace_linears(model, packing)
    # converted only if the weights were read as they are stored: buffers such as Mistral's rotary
    # frequencies stay float32 in any precision
    return model if packing.loads else model.to(packing.computes_in)


def _replace_linears(module: nn.Module, packing: Packing) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, packing.linear(child))
        else:
            _replace_linears(child, packing)
