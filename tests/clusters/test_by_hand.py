"""From an empty HOME: the README's first commands, then a Ray that is started as docs/deploying.md says.

`make serve` leaves Ray's token in HOME, without which nobody uses the second Ray. The documented lines
run as they are, but for ports: others run on this machine, too.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from testing.hashing import save_model
from testing.processes import kill
from testing.running import RunningService, config, environment_in, free_port, short_folder
from testing.running import wait_until_ready as wait
from testing.waiting import until
from tests.support.documents import README, ROOT

pytestmark = pytest.mark.long
BIN = Path(sys.executable).parent
STRANGER = "import ray, sys; ray.init(sys.argv[1]); print('inside')"


def blocks():
    """Returns the two blocks of the section for one machine: the token, and the start."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    section = text.split("## One machine with a GPU")[1].split("\n## ")[0]
    token, start = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return token, start


def checkout_in(folder, port):
    """A checkout that serves at ``port``, and whose virtual environment is already made."""
    checkout = folder / "checkout"
    (checkout / ".venv").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (checkout / name).symlink_to(ROOT / name)
    (checkout / ".venv" / "bin").symlink_to(BIN)
    for made in (".venv", ".serve"):
        (checkout / ".venv" / made).touch()
    config = (ROOT / "serve_config.yaml").read_text()
    (checkout / "serve_config.yaml").write_text(config.replace("port: 8000", f"port: {port}"))
    return checkout


@contextmanager
def make_serve(command, checkout, environment, url):
    """The README's first command, until Ctrl-C."""
    with (checkout / "log").open("wb") as log:
        process = subprocess.Popen(
            shlex.split(command),
            cwd=checkout,
            env=environment,
            stdout=log,
            stderr=log,
            process_group=0,
        )

    try:
        wait(RunningService(url, checkout / "log", process), ["all-MiniLM-L6-v2"])
        yield
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        process.wait(30)
        assert "embedfleet: stopped" in (checkout / "log").read_text()
    finally:
        process.kill()


def processes_of(folder):
    """Returns the pids of every process that names this folder, or was started by one that does."""
    actual = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words and int(entry.name) != os.getpid():
            actual.add(int(entry.name))
    return actual


@pytest.fixture
def machine(tmp_path):
    """A machine with an empty HOME: its environment, and the ports that this test uses."""
    folder = short_folder()
    home = folder / "home"
    home.mkdir()
    kept = environment_in(folder)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "EMBEDFLEET_API_KEYS"):
        kept.pop(name, None)
    dashboard = free_port()
    environment = {
        **kept,
        "HOME": str(home),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    yield folder, environment, dashboard
    kill(processes_of(folder))


def bash(code, environment, folder):
    return subprocess.run(
        ["bash", "-ec", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def serve_as_the_readme_says(folder, environment):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    checkout = checkout_in(folder, port)
    blocks_of_readme = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    command, *beside = blocks_of_readme[0].splitlines()
    tmp = {**environment, "RAY_TMPDIR": str(folder)}
    with make_serve(command.partition("#")[0], checkout, tmp, url):
        lines = "\n".join([*beside, blocks_of_readme[1]]).replace("http://127.0.0.1:8000", url)
        run = bash(lines, {**environment, "EMBEDFLEET_URL": url}, checkout)
    assert run.returncode == 0, run.stderr
    assert "all-MiniLM-L6-v2  small  ready" in run.stdout
    assert '"embedding"' in run.stdout


def test_the_documented_lines_start_services_that_strangers_cannot_use(machine):
    folder, environment, dashboard = machine
    serve_as_the_readme_says(folder, environment)
    save_model(folder / "hashed")
    gcs, port = free_port(), free_port()
    models = [{"name": "hashed", "path": str(folder / "hashed")}]
    app = {"import_path": "testing.hashing:build"}
    (folder / "one_gpu.yaml").write_text(yaml.safe_dump(config(models, port, app)))
    token, start = blocks()
    ports = (
        f"--port {gcs} --dashboard-port {dashboard} --dashboard-agent-listen-port {free_port()} "
        f"--dashboard-agent-grpc-port {free_port()} --ray-client-server-port {free_port()} "
        f"--temp-dir {folder}/ray --num-cpus 2"
    )
    start = start.replace("ray start --head", f"ray start --head {ports}")
    start = start.replace("THE_KEY", "test-key").replace("/data/huggingface", str(folder))
    start = "\n".join(line for line in start.splitlines() if not line.startswith("ray stop"))
    run = bash(token + start, environment, folder)
    assert run.returncode == 0, run.stderr + run.stdout
    file = folder / "home" / ".ray" / "auth_token"
    assert file.stat().st_mode & 0o077 == 0
    running = RunningService(f"http://127.0.0.1:{port}", folder / "log", Alive())
    (folder / "log").write_text(run.stdout + run.stderr)
    wait(running, ["hashed"])
    elsewhere = {**environment, "HOME": str(folder / "nobody"), "RAY_ADDRESS": ""}
    until(lambda: processes_of(folder), 10)
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, f"127.0.0.1:{gcs}"],
        env=elsewhere,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert stranger.returncode != 0
    assert "inside" not in stranger.stdout


class Alive:
    """Stands for a process: `ray start` has ended, and its service runs on."""

    def poll(self):
        return None
