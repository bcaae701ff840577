"""Linear layers for half precision on a CPU, their weights laid out once for oneDNN.

PyTorch's own layer hands oneDNN plain weights, which it lays out anew in each call: half the time of
a short pass. These are the operators that PyTorch's compiler emits for frozen weights; what follows
a layer (an activation, a residual) runs inside them.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)
# rows of a pass that the layout is chosen for; measured to matter little (benchmarks/LOG.md)
_ROWS = 512

# oneDNN writes a program for each new number of rows, which takes milliseconds: use few numbers
_STEPS = ((128, 16), (256, 32), (1_024, 64))


def rounded_rows(rows: int) -> int:
    """Returns the number of rows to compute for this many, a little more."""
    step = next((step for most, step in _STEPS if rows <= most), 256)
    return -(-rows // step) * step


def all_rounded_rows(most: int) -> list[int]:
    """Returns every number of rows that passes of up to ``most`` are rounded to."""
    return sorted({rounded_rows(rows) for rows in range(1, most + 1)})


class PackedLinear(nn.Module):
    """Computes what these ``nn.Linear`` do, side by side, for inference only."""

    def __init__(self, *linears: nn.Linear, activation: str = "none") -> None:
        """``activation`` is "none" or "gelu" (by the error function)."""
        super().__init__()
        weight = torch.cat([linear.weight.detach() for linear in linears])
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self._bias = torch.cat(biases) if biases else None
        self._activation = activation

    def forward(self, states: Tensor) -> Tensor:
        """Returns ``states`` ``(..., in)`` as ``(..., out)``."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._weight, self._bias, self._activation, [], "none"
        )
        return found

    def plus(self, states: Tensor, residual: Tensor) -> Tensor:
        """Returns the layer's output added to ``residual`` ``(..., out)``."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, residual, self._weight, self._bias, "add"
        )
        return found


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch and this processor have the operators."""
    return (
        device.type == "cpu"
        and dtype is torch.bfloat16
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


@torch.inference_mode()
def pack_linears(module: ModuleT) -> ModuleT:
    """Replaces each ``nn.Linear`` inside ``module`` and returns it; its plain weights are freed."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            pack_linears(child)
    return module
