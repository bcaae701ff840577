"""A replica that is added while a corpus job runs takes its share of the work."""

from __future__ import annotations

import subprocess
import time

import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from ray.serve.handle import DeploymentHandle

from testing.docstrings import all_docstrings
from testing.encoding import command
from testing.shared_service import join, redeploy
from testing.waiting import until
from tests.chaos.conftest import STEADY

MODEL = STEADY
DEPLOYMENT = f"encoder-{MODEL}"
SHARE = 0.25  # of the tokens that arrive while both replicas run
ENOUGH_TOKENS = 50_000


@pytest.fixture(scope="module")
def service(steady_service):
    return steady_service


@pytest.fixture(scope="module")
def encoder(service):
    join(service)
    handle = DeploymentHandle(DEPLOYMENT, "embedfleet")
    handle.status.remote().result(timeout_s=30)  # a new handle knows no replicas until it is used
    return handle


def tokens(encoder: DeploymentHandle, kind: str) -> list[float]:
    """Returns each replica's offline tokens that have ``arrived`` so far or are ``waiting``, sorted."""
    reports = encoder.broadcast("record_autoscaling_stats").results(timeout_s=30)
    return sorted(report[f"{kind}_offline"] for report in reports)


@pytest.mark.long
def test_a_new_replica_takes_its_share_of_a_job_that_runs(service, encoder, tmp_path):
    texts, out = all_docstrings() * 10, tmp_path / "out"
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    args = (tmp_path / "a.parquet", out, "--model", MODEL, "--truncate", "--part-mb", 0.05)
    line, environment = command(service, *args)
    job = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: list(out.glob("*.parquet")), 120)
        two = {"name": DEPLOYMENT, "num_replicas": 2}
        redeploy(service, lambda app: app.update(deployments=[two]))
        until(lambda: len(tokens(encoder, "arrived")) == 2, 120, "the new replica runs")
        until(lambda: min(tokens(encoder, "arrived")) > 0, 60, "the job has connected to it")
        new, old = tokens(encoder, "arrived")
        until(lambda: sum(tokens(encoder, "arrived")) > new + old + ENOUGH_TOKENS, 120)
        assert job.poll() is None
        later_new, later_old = tokens(encoder, "arrived")
        assert later_new - new > SHARE * (later_new - new + later_old - old)
    finally:
        job.kill()
        job.wait()
    until(lambda: sum(tokens(encoder, "waiting")) == 0, 60, "nobody waits for what is left")
    arrived = tokens(encoder, "arrived")
    time.sleep(2)
    assert tokens(encoder, "arrived") == arrived, "the job has left nothing behind"
