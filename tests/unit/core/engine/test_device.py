"""Device and precision that follow from the hardware, with made-up hardware."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deployments.core.engine import device
from deployments.core.engine.device import choose_device, choose_dtype, cuda_devices, pass_sizes
from deployments.core.errors import UnsupportedModel
from deployments.core.models.catalog import CATALOG

SPEC = CATALOG["e5-small"]
FLOAT32_ONLY = replace(SPEC, dtypes=("float32",))
NO_BFLOAT16 = replace(SPEC, dtypes=("float32", "float16"))
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TURING, AMPERE = (7, 5), (8, 0)


@pytest.fixture
def hardware(monkeypatch):
    """Sets what the machine seems to have."""

    def have(cuda=False, gpus=(), flags=(), fbgemm=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: gpus[gpu.index or 0])
        monkeypatch.setattr(device, "_cpu_flags", lambda: set(flags))
        monkeypatch.setattr(device, "has_fbgemm", lambda: fbgemm)

    return have


@pytest.mark.parametrize(
    ("cuda", "wanted", "actual"),
    [
        (False, "auto", "cpu"),
        (True, "auto", "cuda"),
        (True, "cpu", "cpu"),
        (True, "cuda:1", "cuda:1"),
        (False, "cpu", "cpu"),
    ],
)
def test_the_device(hardware, cuda, wanted, actual):
    hardware(cuda=cuda)
    assert choose_device(wanted) == torch.device(actual)


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there(hardware, wanted):
    hardware(cuda=False)
    with pytest.raises(UnsupportedModel, match=f"`device` is {wanted}, but"):
        choose_device(wanted)


@pytest.mark.parametrize(("cuda", "gpus", "actual"), [(True, 2, 2), (False, 2, 0), (False, 0, 0)])
def test_gpus_that_only_the_driver_knows_do_not_count(hardware, cuda, gpus, actual):
    hardware(cuda=cuda, gpus=[(9, 0)] * gpus)
    assert cuda_devices() == actual


@pytest.mark.parametrize(
    ("where", "features", "spec", "dtype"),
    [
        (CPU, {"flags": ["avx512f"]}, SPEC, torch.float32),
        (CPU, {"flags": ["avx512_bf16", "fma"]}, SPEC, torch.bfloat16),
        (CPU, {"flags": ["amx_bf16"]}, SPEC, torch.bfloat16),
        (CPU, {"flags": ["amx_bf16"]}, FLOAT32_ONLY, torch.float32),
        (CPU, {"flags": ["avx2"], "fbgemm": True}, SPEC, torch.float16),
        (CPU, {"flags": ["avx2"], "fbgemm": True}, FLOAT32_ONLY, torch.float32),
        (CPU, {"flags": ["avx512_bf16"], "fbgemm": True}, SPEC, torch.bfloat16),
        (CPU, {"flags": ["avx512_bf16"], "fbgemm": True}, NO_BFLOAT16, torch.float16),
        (CUDA, {"gpus": [AMPERE]}, SPEC, torch.bfloat16),
        (CUDA, {"gpus": [TURING]}, SPEC, torch.float16),
        (CUDA, {"gpus": [AMPERE]}, NO_BFLOAT16, torch.float16),
        (CUDA, {"gpus": [AMPERE]}, FLOAT32_ONLY, torch.float32),
        (CUDA, {"gpus": [TURING]}, replace(SPEC, dtypes=("float32", "bfloat16")), torch.float32),
        (torch.device("cuda:1"), {"gpus": [TURING, AMPERE]}, SPEC, torch.bfloat16),
        (torch.device("cuda:1"), {"gpus": [AMPERE, TURING]}, SPEC, torch.float16),
    ],
)
def test_the_precision_that_is_fast_here_and_that_the_model_stands(
    hardware, where, features, spec, dtype
):
    hardware(**features)
    assert choose_dtype(spec, where) == dtype


@pytest.mark.parametrize("name", SPEC.dtypes)
def test_a_precision_that_is_asked_for(hardware, name):
    hardware()
    assert choose_dtype(SPEC, CPU, name) == getattr(torch, name)


def test_a_precision_that_the_model_does_not_stand(hardware):
    hardware()
    with pytest.raises(UnsupportedModel, match="e5-small runs in float32, not in float16"):
        choose_dtype(FLOAT32_ONLY, CPU, "float16")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("flags\t\t: fpu amx_bf16\nmodel: x\n", {"amx_bf16", "fpu"}),
        ("Features\t: asimd bf16\n", {"bf16"}),
        ("model name : bf16\n", set()),
        (None, set()),
    ],
)
def test_what_the_cpu_says_of_itself(monkeypatch, tmp_path, text, flags):
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(device, "Path", lambda _: file)
    assert flags <= device._cpu_flags()
    assert bool(device._cpu_flags()) == bool(flags)


def test_a_gpu_gets_a_larger_pass():
    for kind in (CPU, CUDA, torch.device("mps")):
        assert list(pass_sizes(kind).budgets) == sorted(pass_sizes(kind).budgets)
        assert pass_sizes(kind).budgets[0] > 0
    assert max(pass_sizes(CUDA).budgets) > max(pass_sizes(CPU).budgets)
