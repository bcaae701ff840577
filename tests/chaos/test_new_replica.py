"""A replica that is added while a corpus job runs takes its share of the work within seconds."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from testing.docstrings import all_docstrings
from testing.encoding import command
from testing.hashing import save_model
from testing.processes import replicas
from testing.running import RunningService
from testing.shared_service import redeploy
from testing.waiting import until

MODEL = "scaled"
WITHIN_S = 10.0
WORK_S = 0.6  # of processor time: more than an idle replica takes in that while
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def service(shared_service, tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("models") / MODEL)
    models = [{"name": MODEL, "path": str(folder)}]
    return shared_service.serve(models, [MODEL], {"import_path": "testing.hashing:build"})


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def running(service: RunningService) -> int:
    with service.client() as http:
        (model,) = http.get("/v1/models").json()["data"]
    return int(model["replicas"])


def test_a_new_replica_is_used_within_seconds(service, tmp_path):
    texts, out = all_docstrings() * 10, tmp_path / "out"
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    args = (tmp_path / "a.parquet", out, "--model", MODEL, "--truncate", "--part-mb", 0.05)
    line, environment = command(service, *args)
    job = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: list(out.glob("*.parquet")), 120)
        before = replicas(service, "encoder-")
        two = {"name": f"encoder-{MODEL}", "num_replicas": 2}
        redeploy(service, lambda app: app.update(deployments=[two]))
        until(lambda: running(service) == 2, 120)
        (new,) = set(replicas(service, "encoder-")) - set(before)
        idle = processor_s(new)
        until(lambda: processor_s(new) > idle + WORK_S, WITHIN_S)
        assert job.poll() is None
    finally:
        job.kill()
        job.wait()
    time.sleep(2)  # for calls that are still under way
    idle = processor_s(new)
    time.sleep(WITHIN_S / 2)
    assert processor_s(new) < idle + WORK_S / 2
