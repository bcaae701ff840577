"""The image without Docker: its steps install a wheel elsewhere, and its command serves from there.

Only what the image gets is copied. The dependencies are those of this environment.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from testing.running import (
    RunningService,
    environment_in,
    free_port,
    short_folder,
    wait_until_ready,
)
from tests.support.documents import ROOT

pytestmark = pytest.mark.long
MODEL = "all-MiniLM-L6-v2"
DOCKERFILE = (ROOT / "cluster" / "manifests" / "Dockerfile").read_text()


def instruction(name: str) -> str:
    """Returns what the last instruction of this name says."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)[-1]


def context_in(folder: Path) -> Path:
    """Copies what Docker would get."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source = ROOT / line[1:]
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / source.name)
    return folder


def environment_with(dependencies: str, folder: Path) -> Path:
    """Makes a virtual environment that finds these packages too; returns its programs' folder."""
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(dependencies)
    return folder / "bin"


def install(context: Path, programs: Path) -> None:
    """Makes a wheel of the context, and installs it there."""
    pip = [sys.executable, "-m", "pip", "-q"]
    wheels = context / "wheels"
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), "."]
    subprocess.run([*pip, *build], cwd=context, check=True, timeout=60)
    (wheel,) = wheels.glob("*.whl")
    there = ["--python", str(programs / "python"), "install", "--no-deps", str(wheel)]
    subprocess.run([*pip, *there], check=True, timeout=60)


@pytest.fixture
def folder():
    folder = short_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_the_image_serves_the_bundled_model(folder):
    (folder / "context").mkdir()
    context = context_in(folder / "context")
    programs = environment_with(sysconfig.get_path("purelib"), folder / "venv")
    install(context, programs)
    app, port = folder / "app", free_port()
    app.mkdir()
    for config in ("serve_config.yaml", "cluster/gpu_config.yaml"):
        shutil.copy(context / config, app)
    shutil.rmtree(context)
    settings = dict(pair.split("=", 1) for pair in shlex.split(instruction("ENV")))
    settings["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(programs / "embedfleet-haproxy")
    ours = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HF_HOME": str(folder / "models"),
        "HOME": str(app),
    }
    environment = {**environment_in(folder), **settings, **ours}
    environment.pop("PYTHONPATH", None)
    program, *arguments = json.loads(instruction("CMD"))
    here = [argument.replace("0.0.0.0", "127.0.0.1") for argument in arguments]
    command = [programs / program, *here, "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=app, env=environment, stdout=log, stderr=log)
    service = RunningService(f"http://127.0.0.1:{port}", folder / "log", process)
    try:
        wait_until_ready(service, [MODEL])
        with service.client() as http:
            answer = http.post("/v1/embeddings", json={"input": "a text"}).json()
        assert answer["model"] == MODEL
        assert len(answer["data"][0]["embedding"]) == 384
    finally:
        process.terminate()
        process.wait(60)
