"""Linear layers for half precision on a CPU, their weights laid out once for oneDNN.

PyTorch's own layer hands oneDNN plain weights, which it lays out anew in each call: half the time of
a short pass. These are the operators that PyTorch's compiler emits for frozen weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# rows of a pass that the layout is chosen for; measured to matter little (benchmarks/LOG.md)
_ROWS = 512


class PackedLinear(nn.Module):
    """Computes what ``nn.Linear`` does, for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, states: Tensor) -> Tensor:
        """Returns ``states`` ``(..., in)`` as ``(..., out)``."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._weight, self._bias, "none", [], ""
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
def pack_linears(module: nn.Module) -> None:
    """Replaces each ``nn.Linear`` inside ``module``; its plain weights are freed."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            pack_linears(child)
