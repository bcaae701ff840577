"""What the hardware under a replica can do: device, precision, and the defaults that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from deployments.core.engine.cpu.linear import has_fbgemm
from deployments.core.engine.device_errors import is_out_of_memory
from deployments.core.errors import UnsupportedModel
from deployments.core.models.spec import ModelSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class PassSizes:
    """How many tokens a full forward pass may have, for `calibrate` to choose from.

    The choice is the smallest of ``budgets`` that reaches the share ``enough`` of the highest speed, so
    that the next text waits less; with 0 it is the first one. A larger budget that is as fast and takes
    at most ``short_s`` seconds is preferred: if engine and service share cores, fewer passes leave
    more of them to the service.
    """

    budgets: tuple[int, ...]
    enough: float = 0.95
    short_s: float = 0.0


# a CPU gains next to nothing beyond 256, but for the time between two passes, and a full pass of 1,024
# takes it a tenth of a second (benchmarks/log/2026-11.md); a GPU gains until it is full
_PASS_SIZES = {
    "cpu": PassSizes((256, 1_024), enough=0.0, short_s=0.06),
    "cuda": PassSizes((4_096, 8_192, 16_384, 32_768, 65_536)),
}


def choose_device(wanted: str = "auto") -> torch.device:
    """Returns the device of this process. Raises UnsupportedModel if it is CUDA and there is none."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedModel(
            f"`device` is {wanted}, but this replica sees no CUDA device; install torch with CUDA and a "
            "driver that is new enough for it, or set `device` to cpu"
        )
    return device


def cuda_devices() -> int:
    """Returns how many GPUs torch can use; ``torch.cuda.device_count`` may count unusable ones too."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_dtype(spec: ModelSpec, device: torch.device, wanted: str = "auto") -> torch.dtype:
    """Returns the precision of the weights: bfloat16 if it is fast, else float16 if that is, else
    float32. Raises UnsupportedModel for a precision that the model does not support.

    On a CPU with AVX2, float16 weights are widened as they are read and everything else is float32.
    """
    if wanted == "auto":
        candidates = _preferred(device)
        wanted = next((name for name in candidates if name in spec.dtypes), "float32")
    if wanted not in spec.dtypes:
        raise UnsupportedModel(
            f"{spec.name} runs in {', '.join(spec.dtypes)}, not in {wanted}; change the model's `dtype`"
        )
    return _DTYPES[wanted]


def pass_sizes(device: torch.device) -> PassSizes:
    """Returns the sizes of a full forward pass to choose from on such a device."""
    return _PASS_SIZES.get(device.type, PassSizes((4_096,)))


def _preferred(device: torch.device) -> tuple[str, ...]:
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # older GPUs emulate it, slowly
        return ("bfloat16", "float16") if fast else ("float16",)
    bfloat16 = ("bfloat16",) if _cpu_flags() & _FAST_BFLOAT16 else ()
    return (*bfloat16, "float16") if has_fbgemm() else bfloat16


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    words = (line.split() for line in lines if line.lower().startswith(("flags", "features")))
    return {word for line in words for word in line}


def answers(device: torch.device) -> bool:
    """Whether the device still works for this process; after some CUDA errors it does not.

    Tries a copy rather than a kernel, so a GPU that this build of torch has no kernels for also answers.
    """
    try:
        torch.zeros(1).to(device).cpu()
    except Exception as error:
        return is_out_of_memory(error)  # another process may hold the memory, and will free it
    return True
