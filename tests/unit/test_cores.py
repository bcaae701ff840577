"""How many threads a replica has, and how many passes share them."""

from __future__ import annotations

import os

import pytest

from deployments import cores
from deployments.config import ModelConfig
from deployments.cores import Split, split_threads


@pytest.mark.parametrize(
    ("fields", "each", "streams", "reserved"),
    [
        ({}, 1, 3, False),  # what Ray has set: see the fixture
        ({"threads": 1}, 1, 1, False),
        ({"threads": 4}, 1, 4, False),
        ({"threads": 5, "streams": 2}, 2, 2, False),
        ({"threads": "auto"}, 1, 8, True),  # of 8 cores
        ({"threads": "auto", "streams": 1}, 7, 1, False),
        ({"threads": "auto", "streams": 12}, 1, 7, False),  # not more than there are
    ],
)
def test_threads_of_a_pass_and_passes_at_once(monkeypatch, fields, each, streams, reserved):
    monkeypatch.setattr(cores, "cores", lambda: 8)
    monkeypatch.setattr(cores, "_THREADS", 3)
    config = ModelConfig(name="all-MiniLM-L6-v2", device="cpu", **fields)
    split = split_threads(config)
    assert (split.each, split.streams, split.reserved) == (each, streams, reserved)


def test_the_only_core_is_used(monkeypatch):
    monkeypatch.setattr(cores, "cores", lambda: 1)
    assert split_threads(ModelConfig(name="all-MiniLM-L6-v2", threads="auto")) == Split(1, 1)


def test_without_ray_all_cores_that_this_process_may_use():
    assert cores.cores() == len(os.sched_getaffinity(0))
