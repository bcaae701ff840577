"""What an engine's error says about its device. Recognizes torch's errors by name, so torch stays out."""

from __future__ import annotations

_NO_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no memory left for the pass."""
    if isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError"):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def reason_of(error: BaseException) -> str:
    """Returns the one line of an error's message that gives the reason.

    TorchScript's errors begin with pages of source; CUDA's errors end with advice.
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return repr(error)
    line = lines[0] if _is_a(error, "AcceleratorError") else lines[-1]
    return line.removeprefix("RuntimeError: ")


def _is_a(error: BaseException, name: str) -> bool:
    """Whether the error is of torch's class ``name``, or of one below it."""
    return any(
        cls.__name__ == name and cls.__module__.split(".")[0] == "torch"
        for cls in type(error).__mro__
    )
