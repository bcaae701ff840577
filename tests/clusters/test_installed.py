"""A wheel that is installed elsewhere: as in the image, without Docker, and alone in an empty folder.

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
from zipfile import ZipFile

import pytest

from testing.running import (
    API_KEY,
    RunningService,
    environment_in,
    free_port,
    short_folder,
    wait_until_ready,
)
from tests.support.batches import as_jsonl, input_line
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


def install(context: Path, programs: Path) -> Path:
    """Makes a wheel of the context, and installs it there; returns the wheel."""
    pip = [sys.executable, "-m", "pip", "-q"]
    wheels = context / "wheels"
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), "."]
    subprocess.run([*pip, *build], cwd=context, check=True, timeout=60)
    (wheel,) = wheels.glob("*.whl")
    there = ["--python", str(programs / "python"), "install", "--no-deps", str(wheel)]
    subprocess.run([*pip, *there], check=True, timeout=60)
    return wheel


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
    with (app / "serve_config.yaml").open("a") as config:
        config.write("      batches: {}\n")
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
            answer = http.post("/v1/embeddings", json={"input": "text a"}).json()
        assert answer["model"] == MODEL
        assert len(answer["data"][0]["embedding"]) == 384
        (app / "in.jsonl").write_bytes(as_jsonl([input_line("a"), b"nonsense"]))
        address = {"EMBEDFLEET_URL": service.url, "EMBEDFLEET_API_KEY": API_KEY}
        line = [programs / "embedfleet", "batch", "in.jsonl"]
        subprocess.run(line, cwd=app, env={**environment, **address}, check=True, timeout=60)
        (result,) = map(json.loads, (app / "in.output.jsonl").read_text().splitlines())
        assert result["response"]["body"]["data"] == answer["data"]
    finally:
        process.terminate()
        process.wait(60)


PROGRAM = """
import sys
import numpy as np
import ray
import embedfleet

with embedfleet.Client(sys.argv[1], sys.argv[2]) as client:
    online = client.embed("a text", model="small").vectors[0]
embedfleet.data.connect()
dataset = ray.data.from_items([{"text": "a text"}] * 20)
rows = embedfleet.data.embed(dataset, model="small", concurrency=1).take_all()
assert len(rows) == 20
assert all(np.dot(row["embedding"], online) > 0.999 for row in rows)
print(embedfleet.__version__, embedfleet.__file__)
"""


def files_of(package: str) -> set[str]:
    files = (ROOT / package).rglob("*")
    paths = {str(file.relative_to(ROOT)) for file in files if file.is_file()}
    return {path for path in paths if "__pycache__" not in path}


def test_the_wheel_alone_in_an_empty_folder(folder):
    (folder / "context").mkdir()
    programs = environment_with(sysconfig.get_path("purelib"), folder / "venv")
    wheel = install(context_in(folder / "context"), programs)
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files_of("embedfleet") | files_of("deployments") | files_of("cluster")
    shutil.rmtree(folder / "context")
    (empty := folder / "empty").mkdir()
    path = f"{programs}:/usr/bin:/bin"
    environment = {**environment_in(folder), "PATH": path, "HOME": str(folder)}
    environment.pop("PYTHONPATH", None)
    port = free_port()
    with (folder / "log").open("wb") as log:
        command = [programs / "embedfleet", "serve", "--port", str(port)]
        process = subprocess.Popen(command, cwd=empty, env=environment, stdout=log, stderr=log)
    service = RunningService(f"http://127.0.0.1:{port}", folder / "log", process)

    def run(*line: object) -> str:
        ray = {"RAY_ADDRESS": service.ray_address, "RAY_AUTH_MODE": "token"}
        done = subprocess.run(
            [*map(str, line)],
            cwd=empty,
            env={**environment, **ray},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        wait_until_ready(service, [MODEL])
        version, place = run(programs / "python", "-c", PROGRAM, service.url, API_KEY).split()
        assert place.startswith(str(folder / "venv"))
        assert f"embedfleet-{version}-" in wheel.name
        (empty / "docs.txt").write_text("one\ntwo\n")
        encode = run(programs / "embedfleet", "encode", "docs.txt", "out", "--model", "small")
        assert "2 rows in, 2 encoded" in encode
    finally:
        process.terminate()
        process.wait(60)
