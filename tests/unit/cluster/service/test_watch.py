"""What `embedfleet serve` notices of a Ray that ends. Real processes and sockets stand in for Ray's."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from cluster.service.watch import process_end, socket_end

# watches a child, which is killed, while the main thread is busy for ever
WATCHES = """
import signal, subprocess, sys, time
from functools import partial
from cluster.service.watch import Watch, process_end
child = subprocess.Popen(["sleep", "60"])
watch = Watch(partial(process_end, {"raylet": child}), lambda: print("ended the rest", flush=True))
if sys.argv[1] == "stopped":
    watch.stop()
child.kill()
time.sleep(3)
"""


@pytest.mark.parametrize(("when", "status"), [("watched", 1), ("stopped", 0)])
def test_the_process_ends_with_its_raylet_unless_that_is_stopped_on_purpose(when, status):
    command = [sys.executable, "-c", WATCHES, when]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == status
    assert ("ended the rest" in run.stdout) == bool(status)
    assert ("Ray's raylet" in run.stderr) == bool(status)


def test_how_a_process_has_ended():
    running = subprocess.Popen(["sleep", "60"])
    assert process_end({"raylet": running}) is None
    failed = subprocess.Popen([sys.executable, "-c", "exit(3)"])
    failed.wait(30)
    assert "gcs_server" in (process_end({"raylet": running, "gcs_server": failed}) or "")
    running.send_signal(signal.SIGKILL)
    running.wait(30)
    assert "SIGKILL" in (process_end({"raylet": running}) or "")


def test_a_socket_at_which_nobody_listens_any_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "raylet"
    assert socket_end(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("raylet")
        server.listen(1)
        assert socket_end(path) is None
    assert socket_end(path)
