"""A replica that dies costs a retry, not an answer.

This file comes last in the folder: the dead replica takes the counters of other tests with it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from testing.processes import kill, replicas
from testing.waiting import until
from tests.service.test_unavailable import answers

MODEL = "slow"
LONG = " word" * 200  # 25 ms each, so that calls are under way when the replica is killed


def test_sigkill_of_the_only_replica_loses_no_request(service):
    until(lambda: answers(service, MODEL), 30)
    (victim,) = replicas(service, f"encoder-{MODEL}")

    def ask(number: int) -> int:
        if number == 20:
            kill([victim])
        with service.client() as http:
            body = {"model": MODEL, "input": f"text number {number}{LONG}"}
            return http.post("/v1/embeddings", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(60))) == {200}
    assert victim not in replicas(service, f"encoder-{MODEL}")
