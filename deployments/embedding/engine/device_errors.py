"""What an error says of the device: that it is only full, or that it is lost to this process."""

from __future__ import annotations

import torch

_NO_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host, had no room for the pass."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


def reason_of(error: BaseException) -> str:
    """Returns the line that tells the reason.

    TorchScript's errors begin with pages of source, CUDA's end with advice.
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return repr(error)
    line = lines[0] if isinstance(error, torch.AcceleratorError) else lines[-1]
    return line.removeprefix("RuntimeError: ")


def answers(device: torch.device) -> bool:
    """Whether the device still does anything for this process; after some CUDA errors it does not.

    It is a copy that is tried, no kernel: a GPU that this build of torch has no kernels for answers.
    """
    try:
        torch.zeros(1).to(device).cpu()
    except Exception as error:
        return is_out_of_memory(error)  # a neighbour's doing, and it passes
    return True
