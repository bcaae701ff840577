"""What an error says of the device."""

from __future__ import annotations

import pytest
import torch

from deployments.core.engine.device import answers
from deployments.core.engine.device_errors import is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (torch.AcceleratorError("CUDA error: out of memory\nCompile with …"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", True),
        ("meta", False),  # what is there cannot be read back
        pytest.param(
            "cuda",
            False,
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_device_answers_or_does_not(device, expected):
    assert answers(torch.device(device)) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
    ],
)
def test_a_full_device_is_not_lost(monkeypatch, error, expected):
    def fails(*_):
        raise error

    monkeypatch.setattr(torch, "zeros", fails)
    assert answers(torch.device("cpu")) is expected
