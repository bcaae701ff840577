"""A corpus job whose service is shut down, or whose Ray has no space left on its disk."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray import serve

from deployments.ray_private import (
    application_details,
    forget_ended_serve,
    serve_instance,
    start_serve,
)
from testing.encoding import encode, run_command
from testing.hashing import SPEED_FILE, save_model
from testing.nodes import cluster_of
from testing.running import config, free_port, short_folder
from testing.waiting import until
from tests.support.killing import (
    arguments,
    check_complete,
    stamps,
    start,
    wait_for_parts,
)
from tests.support.small_disk import mounted

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
MODEL = "steady"
SLOW, FAST = 1_000, 100_000  # tokens/s
WAIT_S = 20
DISK_BYTES = 400_000_000


@dataclass(frozen=True)
class Service:
    """An application in a Ray that this process has joined."""

    ray_address: str
    config: dict[str, object]
    model: Path

    def shut_down(self) -> None:
        serve.shutdown()
        until(lambda: serve_instance() is None, 60, "Serve's controller has ended")

    def deploy(self, tokens_per_s: int) -> None:
        forget_ended_serve()
        (self.model / SPEED_FILE).write_text(str(tokens_per_s))
        start_serve(self.config, 60)
        until(lambda: application_details(10)["embedfleet"]["status"] == "RUNNING", 90, "it runs")


@pytest.fixture(scope="module")
def disk():
    """A file system of its own for Ray's session."""
    folder = short_folder()
    with mounted(folder / "disk", f"size={DISK_BYTES}") as disk:
        yield disk
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def service(disk, tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("models") / MODEL)
    models = [{"name": MODEL, "path": str(folder)}]
    app = {"import_path": "testing.hashing:build"}
    with cluster_of(folder=disk / "ray") as cluster:
        ray.init(cluster.address, log_to_driver=False)
        yield Service(cluster.address, config(models, free_port(), app), folder)
        ray.shutdown()


@pytest.fixture
def running(service):
    service.deploy(SLOW)
    yield service
    service.shut_down()


def test_a_job_outlives_its_service(running, corpus, tmp_path):
    (path, ids), out = corpus, tmp_path / "out"
    job = start(running, *arguments(path, out, MODEL))
    wait_for_parts(job, out, 4)
    running.shut_down()
    before = stamps(out)
    time.sleep(15)  # until the job has asked what it waits for
    assert job.poll() is None, job.communicate()
    running.deploy(FAST)
    words = errors_of(job)
    assert job.returncode == 0, words
    assert "waiting: the service has stopped" in words
    check_complete(out, ids, before)


def test_a_job_gives_up_on_a_service_that_stays_away(running, corpus, tmp_path):
    (path, ids), out = corpus, tmp_path / "out"
    job = start(running, *arguments(path, out, MODEL), "--wait", WAIT_S)
    wait_for_parts(job, out, 4)
    running.shut_down()
    stopped = time.monotonic()
    words = errors_of(job)
    assert job.returncode == 1, words
    assert WAIT_S <= time.monotonic() - stopped < 2 * WAIT_S
    assert words.splitlines()[-1].startswith("embedfleet: no progress for 0:2"), words
    assert "Traceback" not in words
    running.deploy(FAST)
    before = stamps(out)
    encode(running, path, out, MODEL, id_column="id", part_mb=0.02)
    check_complete(out, ids, before)


def test_a_full_disk_under_rays_session_ends_a_job_within_seconds(running, disk, corpus, tmp_path):
    (path, ids), out = corpus, tmp_path / "out"
    args, filler = arguments(path, out, MODEL), disk / "filler"
    job = start(running, *args)
    wait_for_parts(job, out, 4)
    fill(filler, shutil.disk_usage(disk).free)
    filled = time.monotonic()
    words = errors_of(job)
    assert job.returncode == 1, words
    assert time.monotonic() - filled < 15
    check_sentence(words)
    before = stamps(out)
    again = run_command(running, *args)
    assert again.returncode == 1, again.stderr
    check_sentence(again.stderr)
    assert stamps(out) == before
    filler.unlink()
    running.shut_down()
    running.deploy(FAST)
    encode(running, path, out, MODEL, id_column="id", part_mb=0.02)
    check_complete(out, ids, before)


def errors_of(job):
    """Waits for the end of a job and returns what it has written to stderr."""
    try:
        return job.communicate(timeout=150)[1].strip()
    finally:
        job.kill()


def fill(file, size):
    with file.open("wb") as handle:
        for _ in range(size // 1_000_000):
            handle.write(bytes(1_000_000))


def check_sentence(words):
    assert "where Ray keeps its session, is full" in words.splitlines()[-1]
    assert "Traceback" not in words
