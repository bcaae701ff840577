"""A replica that dies costs a retry, not an answer."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

from tests.ray.test_unavailable import answers
from tests.waiting import until

MODEL = "minilm-float32"


def replica_pids(model: str) -> list[int]:
    """Returns the processes of a model's replicas, by the name Ray gives them."""
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    lines = listing.stdout.splitlines()
    return [int(line.split()[0]) for line in lines if f":encoder-{model}" in line]


def test_sigkill_of_the_only_replica_loses_no_request(service):
    until(lambda: answers(service, MODEL), 30)
    (victim,) = replica_pids(MODEL)

    def ask(number: int) -> int:
        if number == 20:
            os.kill(victim, signal.SIGKILL)
        with service.client() as http:
            body = {"model": MODEL, "input": f"text number {number}"}
            return http.post("/v1/embeddings", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(60))) == {200}
    assert replica_pids(MODEL) != [victim]
