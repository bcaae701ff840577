"""`--start`: the service runs for the job's time and leaves nothing behind.

Each test has a process namespace of its own, so that it finds no other Ray of this machine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from pyarrow import parquet as pq

from testing.hashing import save_model
from testing.running import config, free_port

MODEL = "hashed"
ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
PYTHON = shlex.quote(sys.executable)
RAY_HEAD = f"{PYTHON} -m ray.scripts.scripts start --head --num-cpus 2 --include-dashboard false"


@pytest.fixture
def folder():
    """Short, since Ray puts Unix sockets there."""
    path = Path(tempfile.mkdtemp(prefix="ef-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def alone(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a shell script that sees no processes but its own, none of which survives it."""
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not make a process namespace here")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST_"))}
    ours = {
        "RAY_TMPDIR": str(folder),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(
        [*ALONE, "sh", "-c", script],
        env={**kept, **ours},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def script(folder: Path) -> str:
    """Returns the job, followed by a listing of the processes that are left."""
    (folder / "a.txt").write_text("one\ntwo\n")
    file = folder / "config.yaml"
    models = [{"name": MODEL, "path": str(save_model(folder / "model"))}]
    app = {"import_path": "testing.hashing:build"}
    file.write_text(yaml.safe_dump(config(models, free_port(), app)))
    words = [sys.executable, "-m", "cluster.cli", "encode", folder / "a.txt", folder / "out"]
    line = shlex.join(map(str, [*words, "--model", MODEL, "--start", file]))
    # the dashboard's own children look for their parent every second or two
    return f"{line} && sleep 3 && echo left: && ps -eo comm="


def check_encoded(run: subprocess.CompletedProcess[str], folder: Path) -> set[str]:
    """Returns the names of the processes that are left, cut to 15 characters."""
    assert "2 rows in, 2 encoded, 0 rejected" in run.stdout, run.stdout + run.stderr
    assert pq.read_table(folder / "out").num_rows == 2
    return {*run.stdout.split("left:")[1].split("\n")} - {"", "sh", "ps"}


@pytest.mark.long
def test_where_nothing_runs(folder):
    run = alone(script(folder), folder)
    assert check_encoded(run, folder) == set()


@pytest.mark.long
def test_on_a_ray_that_runs_without_the_service(folder):
    head = f"{RAY_HEAD} --port {free_port()} --temp-dir {folder}/ray >&2"
    run = alone(f"{head} && {script(folder)}", folder)
    left = check_encoded(run, folder)
    assert {"gcs_server", "raylet"} <= left
    assert not {name for name in left if name.startswith("ray::Serve")}


def test_a_service_that_cannot_start(folder):
    (folder / "a.txt").write_text("one\n")
    words = ["encode", folder / "a.txt", folder / "out", "--model", MODEL]
    line = shlex.join([sys.executable, "-m", "cluster.cli", *map(str, words)])
    run = alone(f"{line} --start {folder}/absent.yaml", folder)
    assert run.returncode == 1
    assert f"there is no {folder}/absent.yaml" in run.stderr
    assert "Traceback" not in run.stderr
