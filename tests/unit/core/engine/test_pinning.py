"""The device that was assigned against the one that is seen; what is needed against what there is."""

from __future__ import annotations

import pytest

from deployments.core.engine.cuda.pinning import (
    VisibleDevices,
    device_problem,
    memory_problem,
    share_of_device,
)

GIB = 2**30


@pytest.mark.parametrize(
    ("num_gpus", "assigned", "seen"),
    [
        (0, (), VisibleDevices("", 0)),
        (0, (), VisibleDevices(None, 8)),
        (1, ("3",), VisibleDevices("3", 1)),
        (0.25, ("0",), VisibleDevices("0", 1)),
        (1, ("GPU-1a2b",), VisibleDevices("GPU-1a2b", 1)),
    ],
)
def test_the_device_is_the_assigned_one(num_gpus, assigned, seen):
    assert device_problem(num_gpus, assigned, seen) is None


@pytest.mark.parametrize(
    ("num_gpus", "assigned", "seen", "why"),
    [
        (1, ("0",), VisibleDevices("0", 0), "torch sees no CUDA device"),
        (1, ("0",), VisibleDevices("0", 0), "set `device: cpu`"),
        (1, ("3",), VisibleDevices("0", 1), "assigned GPU 3, but CUDA_VISIBLE_DEVICES is '0'"),
        (1, ("0",), VisibleDevices("0,1", 2), "torch sees 2 devices"),
        (
            1,
            ("0",),
            VisibleDevices(None, 8),
            "CUDA_VISIBLE_DEVICES is None and torch sees 8 devices",
        ),
        (1, (), VisibleDevices("", 0), "num_gpus is 1, but Ray has assigned GPUs none"),
        (1, ("0", "1"), VisibleDevices("0,1", 2), "num_gpus is 1, but Ray has assigned GPUs 0, 1"),
        (
            1,
            ("0",),
            VisibleDevices("0", 0, listed=1),
            "the driver lists it, but CUDA does not start",
        ),
        (1, ("0",), VisibleDevices("0", 0), "a driver that is new enough"),
    ],
)
def test_the_device_is_another_one(num_gpus, assigned, seen, why):
    assert why in device_problem(num_gpus, assigned, seen)


@pytest.mark.parametrize(
    ("num_gpus", "share"),
    [(0.25, 19.5 * GIB), (0.5, 39.5 * GIB), (0.001, 0), (1, 80 * GIB)],
)
def test_a_fraction_of_a_gpu_is_that_fraction_of_its_memory_less_cudas_own(num_gpus, share):
    assert share_of_device(num_gpus, 80 * GIB) == share


@pytest.mark.parametrize(
    ("seen", "never"),
    [
        (VisibleDevices("0", 0, 1), True),
        (VisibleDevices("0", 0, 0), False),
        (VisibleDevices("0", 1, 1), False),
    ],
)
def test_cuda_that_has_not_started_never_does(seen, never):
    assert seen.only_listed is never


@pytest.mark.parametrize(
    ("on_gpu", "advice"), [(True, "raise `num_gpus`"), (False, "give it a larger node")]
)
def test_where_memory_is_short_it_is_said_what_to_do(on_gpu, advice):
    problem = memory_problem(on_gpu, "CUDA out of memory")
    assert "lower `token_budget`" in problem
    assert advice in problem
    assert problem.endswith("(CUDA out of memory)")
