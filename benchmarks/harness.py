"""What the benchmarks of the running service share: the service, and how figures are reported."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.reporting import machine, percentile, report
from testing.running import RunningService, running_service

__all__ = ["MODEL", "QUERY", "machine", "percentile", "report", "service", "tokens_per_s"]

MODEL = "all-MiniLM-L6-v2"
QUERY = "how do plants turn sunlight into sugar and oxygen"


@contextmanager
def service(
    path: str = "auto",
    environment: Mapping[str, str] | None = None,
    threads: int | str = "auto",
    **args: Any,
) -> Iterator[RunningService]:
    """Runs the default app, with the bundled model, as `embedfleet serve` starts it."""
    models = [{"name": MODEL, "num_cpus": 1, "threads": threads}]
    with running_service(models, [MODEL], path, environment, **args) as running:
        time.sleep(2)  # what start-up leaves behind
        yield running


def tokens_per_s(running: RunningService) -> float:
    """Returns the speed that the replica has measured of itself."""
    return float(_card(running)["tokens_per_s"])


def micro_batch_s(running: RunningService) -> float:
    """Returns how long a full forward pass takes beside others, by the replica's own word."""
    card = _card(running)
    return float(card["streams"] * card["token_budget"] / card["tokens_per_s"])


def _card(running: RunningService) -> dict[str, Any]:
    with running.client() as http:
        found: dict[str, Any] = http.get("/v1/models").json()["data"][0]
    return found
