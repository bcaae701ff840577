"""What the workers of jobs and stages reserve, so that no step waits for a CPU for ever."""

from __future__ import annotations

import logging

import pytest
import ray
from ray.data import ActorPoolStrategy

from cluster.corpus.stage import _cpus_of_a_worker


@pytest.fixture
def free(monkeypatch):
    """Sets the CPUs of the cluster that nobody has reserved."""

    def have(cpus: float) -> None:
        resources = {"CPU": cpus} if cpus else {}  # Ray leaves out what is used up
        monkeypatch.setattr(ray, "available_resources", lambda: resources)

    return have


@pytest.mark.parametrize(
    ("cpus", "workers", "each"),
    [(4.0, 1, 0.25), (2.0, 4, 0.25), (1.9, 4, 0.0), (1.0, 1, 0.0), (0.25, 1, 0.0), (0.0, 1, 0.0)],
)
def test_a_whole_cpu_is_left_for_the_other_steps_of_a_pipeline(free, cpus, workers, each):
    free(cpus)
    pool = ActorPoolStrategy(min_size=1, max_size=workers)
    assert _cpus_of_a_worker(pool) == each


@pytest.mark.parametrize(("cpus", "lines"), [(0.9, 1), (1.0, 0)])
def test_a_cluster_without_a_free_cpu_is_named(free, caplog, cpus, lines):
    free(cpus)
    with caplog.at_level(logging.WARNING):
        _cpus_of_a_worker(ActorPoolStrategy(size=1))
    assert len(caplog.records) == lines
