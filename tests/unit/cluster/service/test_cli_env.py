"""``embedfleet env`` prints what a shell can take over."""

from __future__ import annotations

import resource
import shutil
import subprocess

import pytest

from cluster.cli import main
from cluster.service.serve import differences, path_environment

SERVERS = "RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER"


def test_haproxy_has_connections_for_refusals_too():
    """Else nobody is told to come back: what it cannot hand over waits in HAProxy."""
    found = [path_environment("haproxy", most)[0][SERVERS] for most in (1, 256, 4_000)]
    assert found == ["5s maxconn 17", "5s maxconn 320", "5s maxconn 5000"]
    assert path_environment("haproxy")[0][SERVERS] == "5s maxconn 320"
    assert SERVERS not in path_environment("python")[0]


def test_what_the_users_environment_changes_is_said(monkeypatch):
    """An image's variables, for one, do not follow the config."""
    environment, _ = path_environment("haproxy", 1_000)
    monkeypatch.setenv(SERVERS, "5s maxconn 320")
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    (line,) = differences(environment)
    assert SERVERS in line
    assert "5s maxconn 320" in line
    assert "5s maxconn 1250" in line


@pytest.mark.parametrize("number", ["0", "-5", "many"])
def test_a_number_of_requests_that_makes_no_sense_is_refused(number, capsys):
    with pytest.raises(SystemExit):
        main(["env", f"--max-requests={number}"])
    assert "--max-requests" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "clients"),
    [(1 << 20, 16_384), (resource.RLIM_INFINITY, 16_384), (20_000, 7_960), (1_024, 369)],
)
def test_haproxy_takes_no_more_clients_than_it_may_have_files_for(monkeypatch, files, clients):
    """It would not start: it wants two and a half for each, and some."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, files))
    assert path_environment("haproxy")[0]["RAY_SERVE_HAPROXY_MAXCONN"] == str(clients)


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_a_shell_takes_it_over(capsys):
    assert main(["env", "--max-requests", "100"]) == 0
    exports = capsys.readouterr().out
    wanted, _ = path_environment("auto", 100)
    shown = subprocess.run(
        ["sh", "-c", f"{exports}env"], env={}, capture_output=True, text=True, check=True
    )
    found = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert found.items() >= wanted.items()
    assert len(wanted) > 2
