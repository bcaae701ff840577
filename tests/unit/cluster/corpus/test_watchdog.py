"""What is said after a job whose process had no chance to say it."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

JOB = """
import os, signal, sys
from cluster.corpus.watchdog import watchdog
with watchdog() as dog:
    if sys.argv[1]:
        dog.watch_raylet(sys.argv[1])
    {end}
"""
LOST = "os._exit(1)"  # as Ray's core does
GONE = "embedfleet: the Ray of the service has ended; run the same command again to continue\n"
KILLED = "embedfleet: the job was killed; run the same command again to continue\n"


def ended(end, raylet=""):
    command = [sys.executable, "-c", JOB.format(end=end), str(raylet)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    return run.returncode, run.stderr


def test_a_job_that_loses_its_ray(tmp_path):
    assert ended(LOST, tmp_path / "raylet") == (1, GONE)


def test_a_job_that_is_killed_beside_a_ray_that_goes_on(tmp_path):
    with socket.socket(socket.AF_UNIX) as raylet:
        raylet.bind(str(tmp_path / "raylet"))
        raylet.listen()
        assert ended("os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "raylet") == (-9, KILLED)
    assert ended(LOST) == (1, KILLED)


@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("sys.exit(3)", 3)])
def test_a_job_with_words_of_its_own(tmp_path, end, status):
    assert ended(end, tmp_path / "raylet") == (status, "")
