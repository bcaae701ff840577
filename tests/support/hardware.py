"""Marks for tests that need an instruction set that some processors lack."""

from __future__ import annotations

import pytest
import torch

from deployments.core.engine.cpu.linear import FBGEMM, ONE_DNN, PLAIN, choose_packing, has_fbgemm

CPU = torch.device("cpu")
needs_fbgemm = pytest.mark.skipif(not has_fbgemm(), reason="this processor has no AVX2")
needs_bfloat16 = pytest.mark.skipif(
    choose_packing(CPU, torch.bfloat16) is None, reason="this processor has no fast bfloat16"
)
PACKINGS = [
    pytest.param(PLAIN, id="plain"),
    pytest.param(ONE_DNN, id="oneDNN", marks=needs_bfloat16),
    pytest.param(FBGEMM, id="FBGEMM", marks=needs_fbgemm),
]
