"""What the hardware under a replica can do: device, precision, defaults that follow from them."""

from __future__ import annotations

from pathlib import Path

import torch

from deployments.embedding.errors import UnsupportedModel
from deployments.embedding.models.model import ModelSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
# a CPU gains next to nothing beyond, and who comes next waits longer; a GPU gains until it is full
_TOKEN_BUDGETS = {
    "cpu": (256, 1_024),
    "cuda": (4_096, 8_192, 16_384, 32_768, 65_536),
}

# where the engine and the rest of the service share cores, fewer passes leave more to the rest; nobody
# minds to wait for one of this length (benchmarks/LOG.md)
_SHORT_PASS_S = {"cpu": 0.06}


def choose_device(wanted: str = "auto") -> torch.device:
    """Returns the device of this process. Raises UnsupportedModel when it is asked for and absent."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedModel(
            f"device {wanted} is asked for, but this replica sees no CUDA device"
        )
    return device


def choose_dtype(spec: ModelSpec, device: torch.device, wanted: str = "auto") -> torch.dtype:
    """Returns the precision of the weights: bfloat16 where it is fast, else float32 (float16 on
    older GPUs). Raises UnsupportedModel for a precision that the model does not stand.
    """
    if wanted == "auto":
        candidates = _preferred(device)
        wanted = next((name for name in candidates if name in spec.dtypes), "float32")
    if wanted not in spec.dtypes:
        raise UnsupportedModel(f"{spec.name} runs in {', '.join(spec.dtypes)}, not in {wanted}")
    return _DTYPES[wanted]


def token_budgets(device: torch.device) -> tuple[int, ...]:
    """Returns the numbers of tokens a forward pass may have on such a device, for `calibrate`."""
    return _TOKEN_BUDGETS.get(device.type, (4_096,))


def short_pass_s(device: torch.device) -> float:
    """Returns up to how many seconds a pass may be larger than its speed asks for."""
    return _SHORT_PASS_S.get(device.type, 0.0)


def _preferred(device: torch.device) -> tuple[str, ...]:
    if device.type == "cuda":
        # older GPUs emulate it, slowly
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bfloat16", "float16") if fast else ("float16",)
    return ("bfloat16",) if _cpu_flags() & _FAST_BFLOAT16 else ("float32",)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    words = (line.split() for line in lines if line.lower().startswith(("flags", "features")))
    return {word for line in words for word in line}
