"""The README's commands and code do what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments.config import AppArgs
from deployments.embedding.catalog import CATALOG
from tests.encoding import command
from tests.running import API_KEY, RunningService

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
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


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_each_file_of_the_tree_exists():
    tree = next(b for b in blocks("") if b.startswith("deployments/"))
    folders = [ROOT / line.split("/")[0] for line in tree.splitlines() if re.match(r"\w+/", line)]
    files = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*.*"))]
    for name in re.findall(r"[\w/]+\.(?:py|yaml|md)", tree):
        found = any(path.as_posix().endswith(f"/{name}") for path in files)
        assert found, f"{name} is in the README's tree but not in the project"


def test_each_catalog_model_is_in_the_table():
    for name in CATALOG:
        assert f"`{name}`" in README
