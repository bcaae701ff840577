"""How many threads a replica has, and how many passes share them."""

from __future__ import annotations

import os

import pytest
import torch

from deployments import cores
from deployments.config import ModelConfig
from deployments.cores import Split, split_threads


@pytest.mark.parametrize(
    ("fields", "each", "streams", "preempt"),
    [
        ({}, 1, 3, True),  # what Ray has set: see below
        ({"threads": 1}, 1, 1, True),
        ({"threads": 4}, 1, 4, True),
        ({"threads": 5, "streams": 2}, 2, 2, False),
        ({"threads": "auto"}, 1, 8, True),  # of 8 cores
        ({"threads": "auto", "streams": 1}, 7, 1, False),
        ({"threads": "auto", "streams": 12}, 1, 7, False),  # not more than there are
    ],
)
def test_threads_of_a_pass_and_passes_at_once(monkeypatch, fields, each, streams, preempt):
    monkeypatch.setattr(cores, "cores", lambda: 8)
    monkeypatch.setattr(cores, "can_give_way", lambda: True)
    monkeypatch.setattr(cores, "_THREADS", 3)
    config = ModelConfig(name="all-MiniLM-L6-v2", device="cpu", **fields)
    split = split_threads(config)
    assert (split.each, split.streams, split.preempt) == (each, streams, preempt)


@pytest.mark.parametrize(("usable", "threads"), [(8, 7), (1, 1)])
def test_where_no_thread_gives_way_one_core_is_left(monkeypatch, usable, threads):
    monkeypatch.setattr(cores, "cores", lambda: usable)
    monkeypatch.setattr(cores, "can_give_way", lambda: False)
    config = ModelConfig(name="all-MiniLM-L6-v2", device="cpu", threads="auto")
    assert split_threads(config) == Split(threads, threads)


def test_on_a_gpu_offline_texts_share_its_passes(monkeypatch):
    monkeypatch.setattr(cores, "choose_device", lambda asked: torch.device("cuda"))
    monkeypatch.setattr(cores, "can_give_way", lambda: True)
    config = ModelConfig(name="all-MiniLM-L6-v2", num_gpus=1)
    assert (split_threads(config).streams, split_threads(config).preempt) == (1, False)


def test_without_ray_all_cores_that_this_process_may_use():
    assert cores.cores() == len(os.sched_getaffinity(0))
