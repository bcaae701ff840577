"""What a service cannot do without dies: then the whole service ends, and nothing of it remains."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from testing.hashing import save_model
from testing.processes import descendants, kill, marked
from testing.running import running_service
from testing.waiting import until
from tests.support.reporting import report

MODEL = "hashed"
APP = {"import_path": "testing.hashing:build"}
# marks of processes
RAYLET, GCS, CHILD = "raylet/raylet ", "gcs/gcs_server ", "cluster.service.drain"

pytestmark = pytest.mark.long  # a Ray for each


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("models") / MODEL)
    return [{"name": MODEL, "path": str(folder)}]


def gone(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


@pytest.mark.parametrize(
    "victim",
    [RAYLET, GCS, CHILD, None],
    ids=["raylet", "gcs", "child", "command"],
)
def test_the_whole_service_ends_with_what_it_cannot_do_without(models, victim, record_property):
    with running_service(models, [MODEL], app=APP) as service:
        everything = descendants(service.process.pid)
        port = urlsplit(service.url).port
        killed = time.monotonic()
        kill(marked(service.process.pid, victim)[:1] if victim else [service.process.pid])
        status = service.process.wait(30)
        # without the command, two agents of Ray try to report to its head for a minute
        within_s = 30 if victim else 90
        until(lambda: all(gone(pid) for pid in everything), within_s, "every process has ended")
        what = f"{victim or 'command'} killed, until all has ended"
        report(record_property, what, time.monotonic() - killed)
        assert status == (1 if victim else -signal.SIGKILL)
        if victim in (RAYLET, GCS):
            assert "so the service ends" in service.log.read_text()
        with socket.create_server(("127.0.0.1", port)):
            pass  # nobody listens there any more
