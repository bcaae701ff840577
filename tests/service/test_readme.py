"""The commands and code of the README and of docs/ work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments.config.schema import AppArgs
from testing.encoding import command
from testing.running import API_KEY, RunningService
from tests.support.documents import calls, code_blocks

CLI = f"{sys.executable} -m cluster.cli"


def adapted(code: str, service: RunningService) -> str:
    """Returns the same code for the service under test, which asks for a key."""
    code = code.replace("http://127.0.0.1:8000", service.url).replace('"none"', f'"{API_KEY}"')
    return code.replace("curl -s", f"curl -s -H 'authorization: Bearer {API_KEY}'")


def run_bash(code: str, service: RunningService, folder: Path) -> str:
    _, environment = command(service)
    environment |= {"EMBEDFLEET_URL": service.url, "EMBEDFLEET_API_KEY": API_KEY}
    run = subprocess.run(
        ["bash", "-ec", adapted(code, service)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(("code", "shown"), calls())
def test_curl_gets_the_answer_that_is_shown(service, tmp_path, code, shown):
    answer = json.loads(run_bash(code, service, tmp_path))
    assert "error" not in answer, answer
    if shown is not None:
        expected = json.loads(shown)
        assert list(answer) == list(expected)
        assert cut(answer) == close_to(expected)


def cut(value):
    """Returns the answer with at most the first three items of each list, as the documents show it."""
    if isinstance(value, dict):
        return {name: cut(item) for name, item in value.items()}
    return [cut(item) for item in value[:3]] if isinstance(value, list) else value


def close_to(value):
    """Returns a value that equals another with the same numbers, but for what precision changes."""
    if isinstance(value, dict):
        return {name: close_to(item) for name, item in value.items()}
    if isinstance(value, list):
        return [close_to(item) for item in value]
    return pytest.approx(value, abs=0.005) if isinstance(value, float) else value


def test_a_batch_is_answered(service, tmp_path):
    (code,) = [b for b in code_blocks("bash") if "embedfleet batch" in b]
    run_bash(code.replace("embedfleet batch", f"{CLI} batch"), service, tmp_path)
    results = (tmp_path / "requests.output.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in results) == ["fr", "jp"]


@pytest.mark.parametrize("name", ["embedfleet models", "embedfleet verify"])
def test_commands_beside_a_running_service(service, tmp_path, name):
    assert "all-MiniLM-L6-v2" in run_bash(name.replace("embedfleet", CLI), service, tmp_path)


@pytest.fixture(scope="module")
def encoded(service, tmp_path_factory) -> Path:
    """A folder in which the corpus of docs/corpus-jobs.md has been encoded."""
    folder = tmp_path_factory.mktemp("readme")
    (code,) = [b for b in code_blocks("bash") if "embedfleet encode" in b]
    run_bash(code.replace("embedfleet", CLI), service, folder)
    return folder


def needs_a_process(code: str) -> bool:
    """Whether a block uses Ray or LanceDB, whose threads would stay in this process."""
    return any(name in code for name in ("import ray", "embedfleet.corpus", "lancedb"))


PYTHON = code_blocks("python")


@pytest.mark.parametrize("code", [code for code in PYTHON if needs_a_process(code)])
def test_python(service, encoded, code):
    _, environment = command(service)  # the address of the service's Ray
    run = subprocess.run(
        [sys.executable, "-c", adapted(code, service)],
        cwd=encoded,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout


@pytest.mark.parametrize("code", [code for code in PYTHON if not needs_a_process(code)])
def test_python_over_http(service, encoded, monkeypatch, capsys, code):
    """In this process, which has imported the clients already: each import takes one or two seconds."""
    monkeypatch.chdir(encoded)
    exec(compile(adapted(code, service), "a document", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


@pytest.mark.parametrize("code", [b for b in code_blocks("yaml") if "import_path" in b])
def test_configs_are_accepted(code):
    (app,) = yaml.safe_load(code)["applications"]
    assert app["import_path"] == "deployments.app:build"
    assert AppArgs.model_validate(app["args"]).models
