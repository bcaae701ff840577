"""Watches a running service's replicas, as Serve's controller knows them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise

import ray
from ray import serve

from testing.running import RunningService

_EVERY_S = 0.25


@dataclass(frozen=True)
class Sample:
    """Replicas at a time (seconds from the start of the watch): those that run, and all."""

    at: float
    running: int
    all: int


@dataclass
class Watch:
    """Samples one deployment in the background, as a context manager."""

    deployment: str
    samples: list[Sample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            at = time.perf_counter() - self._started
            self.samples.append(Sample(at, *count(self.deployment)))

    @property
    def changes(self) -> int:
        """How often the number of replicas asked for changed."""
        asked = [sample.all for sample in self.samples]
        return sum(a != b for a, b in pairwise(asked))

    @property
    def replica_seconds(self) -> float:
        """Replicas that ran, started or stopped, times how long they did."""
        return sum(a.all * (b.at - a.at) for a, b in pairwise(self.samples))

    def first_added_s(self) -> float:
        """Returns the seconds until one more replica runs than at the start; NaN for never."""
        base = self.samples[0].running
        return next((s.at for s in self.samples if s.running > base), float("nan"))


def connect(running: RunningService) -> None:
    """Joins the service's own Ray."""
    ray.init(running.ray_address, log_to_driver=False, logging_level="ERROR")


def count(deployment: str) -> tuple[int, int]:
    """Returns how many replicas run, and how many there are in any state."""
    states = serve.status().applications["embedfleet"].deployments[deployment].replica_states
    return states.get("RUNNING", 0), sum(states.values())
