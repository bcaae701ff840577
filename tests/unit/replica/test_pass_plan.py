"""How many threads a replica has, and how many passes share them."""

from __future__ import annotations

import os

import pytest
import torch

from deployments.config.schema import ModelConfig
from deployments.replica import pass_plan
from deployments.replica.pass_plan import ThreadPlan, plan_threads


@pytest.mark.parametrize(
    ("fields", "each", "streams", "preempt"),
    [
        ({}, 1, 3, False),  # what Ray has set: see below
        ({"threads": 1}, 1, 1, False),
        ({"threads": 4}, 1, 4, False),  # others on the node have theirs
        ({"threads": 8}, 1, 8, True),
        ({"threads": 5, "streams": 2}, 2, 2, False),
        ({"threads": 8, "streams": 8}, 1, 8, False),
        ({"threads": "auto"}, 1, 8, True),  # of 8 cores
        ({"threads": "auto", "streams": 1}, 7, 1, False),
        ({"threads": "auto", "streams": 12}, 1, 7, False),  # not more than there are
    ],
)
def test_threads_of_a_pass_and_passes_at_once(monkeypatch, fields, each, streams, preempt):
    monkeypatch.setattr(pass_plan, "cores", lambda: 8)
    monkeypatch.setattr(pass_plan, "usable_cores", lambda: 8)
    monkeypatch.setattr(pass_plan, "can_give_way", lambda: True)
    monkeypatch.setattr(pass_plan, "_THREADS", 3)
    config = ModelConfig(name="all-MiniLM-L6-v2", device="cpu", **fields)
    split = plan_threads(config)
    assert (split.each, split.streams, split.preempt) == (each, streams, preempt)


@pytest.mark.parametrize(
    ("counted", "usable", "gives_way", "threads"),
    [
        (8, 8, False, 7),
        (1, 1, False, 1),
        (2, 8, True, 1),  # a quota: the kernel would stop all threads together
    ],
)
def test_one_core_is_left_free_if_threads_cannot_be_preempted(
    monkeypatch, counted, usable, gives_way, threads
):
    monkeypatch.setattr(pass_plan, "cores", lambda: counted)
    monkeypatch.setattr(pass_plan, "usable_cores", lambda: usable)
    monkeypatch.setattr(pass_plan, "can_give_way", lambda: gives_way)
    config = ModelConfig(name="all-MiniLM-L6-v2", device="cpu", threads="auto")
    assert plan_threads(config) == ThreadPlan(threads, threads)


def test_on_a_gpu_offline_texts_share_its_passes(monkeypatch):
    monkeypatch.setattr(pass_plan, "choose_device", lambda asked: torch.device("cuda"))
    monkeypatch.setattr(pass_plan, "usable_cores", lambda: 1)
    monkeypatch.setattr(pass_plan, "can_give_way", lambda: True)
    config = ModelConfig(name="all-MiniLM-L6-v2", num_gpus=1)
    assert (plan_threads(config).streams, plan_threads(config).preempt) == (1, False)


def test_without_ray_all_usable_cores_count():
    assert pass_plan.cores() == len(os.sched_getaffinity(0))
