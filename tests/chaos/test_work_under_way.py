"""Work under way when a replica comes, which takes its share, and when the service is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet as pq

from testing.docstrings import all_docstrings
from testing.encoding import command
from testing.processes import replicas
from testing.running import RunningService, running_service
from testing.waiting import until

MODEL = "all-MiniLM-L6-v2"
WITHIN_S = 10.0
STOPS_WITHIN_S = 30.0
WORK_S = 1.0  # of processor time: more than an idle replica takes in that while
TICKS = os.sysconf("SC_CLK_TCK")
DEPLOY = """
import sys, ray, yaml
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema
ray.init(namespace="serve", log_to_driver=False)
config = ServeDeploySchema.model_validate(yaml.safe_load(open(sys.argv[1])))
_get_global_client().deploy_apps(config, _blocking=False)
"""


@pytest.fixture(scope="module")
def service():
    with running_service([{"name": MODEL}], [MODEL], limits={"online_max_wait_s": 60}) as running:
        yield running


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def running(service: RunningService) -> int:
    with service.client() as http:
        (model,) = http.get("/v1/models").json()["data"]
    return int(model["replicas"])


def scale(service: RunningService, count: int, environment: dict[str, str]) -> None:
    file = service.log.parent / "serve_config.yaml"
    config = yaml.safe_load(file.read_text())
    config["applications"][0]["deployments"] = [{"name": f"encoder-{MODEL}", "num_replicas": count}]
    file.write_text(yaml.safe_dump(config))
    subprocess.run([sys.executable, "-c", DEPLOY, str(file)], env=environment, check=True)


def test_a_new_replica_is_used_within_seconds(service, tmp_path):
    texts, out = all_docstrings() * 3, tmp_path / "out"
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    args = (tmp_path / "a.parquet", out, "--model", MODEL, "--truncate", "--part-mb", 0.05)
    line, environment = command(service, *args)
    job = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: list(out.glob("*.parquet")), 120)
        before = replicas(service, "encoder-")
        scale(service, 2, environment)
        until(lambda: running(service) == 2, 120)
        (new,) = set(replicas(service, "encoder-")) - set(before)
        idle = processor_s(new)
        until(lambda: processor_s(new) > idle + WORK_S, WITHIN_S)
        assert job.poll() is None
    finally:
        job.kill()
        job.wait()
    time.sleep(2)  # what is under way still
    idle = processor_s(new)
    time.sleep(WITHIN_S / 2)
    assert processor_s(new) < idle + WORK_S / 2


def test_sigterm_lets_what_is_under_way_be_answered(service):
    texts = [text for text in all_docstrings() if len(text) > 400][:48]
    several_calls = asked(texts * 6)  # to a replica: while one is answered others wait to be made
    bodies = [*[asked(texts)] * 4, several_calls]

    def ask(body: dict[str, object]) -> httpx.Response:
        with service.client() as http:
            return http.post("/v1/embeddings", json=body)

    def ready() -> int:
        with service.client() as http:
            return http.get("/ready").status_code

    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(ask, body) for body in bodies]
        time.sleep(0.4)  # all have arrived, few are answered
        service.process.send_signal(signal.SIGTERM)
        until(lambda: ready() == httpx.codes.SERVICE_UNAVAILABLE, 5)
        assert service_stops(ask(asked(["too late"])))
        assert not all(call.done() for call in calls)
        answers = [call.result() for call in calls]
    assert [answer.status_code for answer in answers] == [200] * 5, answers
    assert statuses_until_it_has_gone(ready) <= {503}  # a 404 would say that the URL is wrong
    assert service.process.wait(STOPS_WITHIN_S) == 0
    assert "Traceback" not in service.log.read_text()


def statuses_until_it_has_gone(status: Callable[[], int]) -> set[int]:
    seen = set()
    with suppress(httpx.TransportError):
        while True:
            seen.add(status())
    return seen


def asked(texts: list[str]) -> dict[str, object]:
    return {"model": MODEL, "input": texts, "truncate": True, "encoding_format": "base64"}


def service_stops(answer: httpx.Response) -> bool:
    return (
        answer.status_code == 503 and "stopping" in answer.text and "retry-after" in answer.headers
    )
