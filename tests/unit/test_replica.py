"""What a replica makes of its config and what it has measured."""

from __future__ import annotations

import os

import pytest

from deployments import replica
from deployments.config import ModelConfig
from deployments.embedding.cpu_linear import rounded_rows
from deployments.replica import cores, shared_budget, threads_and_streams, worth_a_pass


@pytest.mark.parametrize(
    ("budget", "rounded", "shared"),
    [
        (256, rounded_rows, 112),  # 0.4 of it are 102, and 112 are computed
        (1_024, rounded_rows, 448),
        (1_024, int, 409),
        (650, lambda _: 384, 260),  # a short pass of a GPU is filled up to much more
        (16, rounded_rows, 6),
    ],
)
def test_both_lanes_share_what_is_computed_anyway_within_half(budget, rounded, shared):
    assert shared_budget(budget, rounded) == shared


@pytest.mark.parametrize(
    ("fields", "threads", "streams"),
    [
        ({}, 1, 3),  # what Ray has set: see the fixture
        ({"threads": 1}, 1, 1),
        ({"threads": 4}, 1, 4),
        ({"threads": 5, "streams": 2}, 2, 2),
        ({"threads": "auto"}, 1, 7),  # of 8 cores
        ({"threads": "auto", "streams": 1}, 7, 1),
        ({"threads": "auto", "streams": 12}, 1, 7),  # not more than there are
    ],
)
def test_threads_of_a_pass_and_passes_at_once(monkeypatch, fields, threads, streams):
    monkeypatch.setattr(replica, "cores", lambda: 8)
    monkeypatch.setattr(replica, "_THREADS", 3)
    config = ModelConfig(name="all-MiniLM-L6-v2", device="cpu", **fields)
    assert threads_and_streams(config) == (threads, streams)


def test_the_only_core_is_used(monkeypatch):
    monkeypatch.setattr(replica, "cores", lambda: 1)
    assert threads_and_streams(ModelConfig(name="all-MiniLM-L6-v2", threads="auto")) == (1, 1)


def test_without_ray_all_cores_that_this_process_may_use():
    assert cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("budget", "tokens_per_s", "worth"),
    [(1_024, 20_000, 300), (1_024, 90_000, 409), (256, 7_500, 102)],
)
def test_a_pass_beside_another_is_worth_so_much_of_a_full_one_or_so_much_time(
    budget, tokens_per_s, worth
):
    assert worth_a_pass(budget, tokens_per_s) == worth
