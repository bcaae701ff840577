"""The commands and code of the README and its pages do what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments.config.schema import AppArgs
from testing.encoding import command
from testing.running import API_KEY, RunningService
from tests.support.documents import DOCUMENTS


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENTS, re.DOTALL | re.MULTILINE)
    return [code for kind, code in found if kind == language]


def here(code: str, service: RunningService) -> str:
    """The same code against the service under test, which asks for a key."""
    code = code.replace("http://127.0.0.1:8000", service.url).replace('"none"', f'"{API_KEY}"')
    return code.replace("curl -s", f"curl -s -H 'authorization: Bearer {API_KEY}'")


@pytest.mark.parametrize("code", [b for b in blocks("bash") if "curl" in b])
def test_curl(service, code):
    run = subprocess.run(
        ["bash", "-ec", here(code, service)], capture_output=True, text=True, timeout=60, check=True
    )
    answer = json.loads(run.stdout)
    assert "error" not in answer, answer


@pytest.fixture(scope="module")
def encoded(service, tmp_path_factory) -> Path:
    """A folder in which the README's corpus has been encoded."""
    folder = tmp_path_factory.mktemp("readme")
    (code,) = [b for b in blocks("bash") if "embedfleet encode" in b]
    code = code.replace("embedfleet", f"{sys.executable} -m cluster.cli")
    _, environment = command(service)
    subprocess.run(["bash", "-ec", code], cwd=folder, env=environment, timeout=120, check=True)
    return folder


@pytest.mark.parametrize("code", blocks("python"))
def test_python(service, encoded, code):
    run = subprocess.run(
        [sys.executable, "-c", here(code, service)],
        cwd=encoded,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout


@pytest.mark.parametrize("code", [b for b in blocks("yaml") if "import_path" in b])
def test_configs_are_accepted(code):
    (app,) = yaml.safe_load(code)["applications"]
    assert app["import_path"] == "deployments.app:build"
    assert AppArgs.model_validate(app["args"]).models
