"""The command line as people run it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from testing.running import API_KEY, config, free_port
from testing.waiting import until


def embedfleet(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.cli", *args]
    env = {**os.environ, **environment}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=env, check=False
    )


def connection(service) -> dict[str, str]:
    return {"EMBEDFLEET_URL": service.url, "EMBEDFLEET_API_KEY": API_KEY}


def test_serve_says_which_path_is_on_and_what_it_serves(service):
    until(
        lambda: "embedfleet: ready after" in service.log.read_text(), 10
    )  # of its first application
    log = service.log.read_text()
    assert "requests come in through" in log
    table = log.split("embedfleet: ready after")[1].splitlines()
    assert any("ready" in line for line in table)


def test_models_shows_the_fleet(service):
    run = embedfleet("models", **connection(service))
    assert run.returncode == 0, run.stderr
    lines = {line.split()[0]: line for line in run.stdout.splitlines()}
    assert "ready" in lines["all-MiniLM-L6-v2"]
    assert "unavailable" in lines["e5-small-v2"]
    assert "hub" in lines["e5-small-v2:"]


def test_verify_compares_with_the_published_scores(service):
    run = embedfleet("verify", "all-MiniLM-L6-v2", **connection(service))
    assert run.returncode == 0, run.stderr
    assert "0.6660" in run.stdout
    assert "ok: worst difference" in run.stdout


def test_verify_fails_for_a_model_that_does_not_answer(service):
    assert embedfleet("verify", "nobody", **connection(service)).returncode == 1
    assert embedfleet("verify", "e5-small-v2", **connection(service)).returncode == 1


def test_without_a_service_the_error_says_what_starts_one():
    run = embedfleet("models", "--url", f"http://127.0.0.1:{free_port()}")
    assert run.returncode == 1
    assert "embedfleet serve" in run.stderr


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([{"name": "e5-smal"}], "not in the catalog"),
        ([{"name": "e5-small", "dtyp": "float32"}], "args: models.0.dtyp: unknown key, did you"),
        ([], "args: models: must not be empty"),
        ([{"name": "e5-small"}, {"name": "e5-small"}], "named twice"),
    ],
)
def test_a_wrong_config_is_refused_before_anything_starts(tmp_path, models, message):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config(models, free_port())))
    run = embedfleet("serve", str(file))
    assert run.returncode == 2
    assert message in run.stderr


def test_a_missing_config_is_refused(tmp_path):
    run = embedfleet("serve", str(tmp_path / "nothing.yaml"))
    assert run.returncode == 2
    assert "nothing.yaml" in run.stderr
