"""The service under measurement: the real app, started as `embedfleet serve` starts it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testing.running import RunningService, running_service

MODEL = "all-MiniLM-L6-v2"
QUERY = "how do plants turn sunlight into sugar and oxygen"
ONE_QUERY = {"model": MODEL, "input": QUERY, "encoding_format": "base64"}


@contextmanager
def service(
    path: str = "auto",
    environment: Mapping[str, str] | None = None,
    threads: int | str = "auto",
    **args: Any,
) -> Iterator[RunningService]:
    """Runs the default app with the bundled model. ``args`` are further arguments of the app."""
    models = [{"name": MODEL, "num_cpus": 1, "threads": threads}]
    with running_service(models, [MODEL], path, environment, **args) as running:
        time.sleep(2)  # until the work that start-up has left behind is done
        yield running


def micro_batch_s(running: RunningService) -> float:
    """Returns the seconds of a full forward pass beside others, as the replica has measured it."""
    with running.client() as http:
        card = http.get("/v1/models").json()["data"][0]
    return float(card["streams"] * card["token_budget"] / card["tokens_per_s"])
