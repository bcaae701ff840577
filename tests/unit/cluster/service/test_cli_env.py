"""``embedfleet env`` prints what a shell can take over."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess

import pytest

from cluster.cli import main
from cluster.service import environment as settings
from cluster.service.config_file import ConfigError, Ingress
from cluster.service.environment import differences, path_environment, private_folder
from cluster.service.haproxy import BINARY_PATH, CONNECTIONS

SOCKETS = ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH")
NODE_ID, TEMPORARY = 56, len(".1234567.tmp")  # what Ray and HAProxy add to a socket's path


def limits(**given):
    return Ingress(host=None, port=8000, **given)


@pytest.mark.parametrize(("most", "connections"), [(1, 1), (4_000, 4_000)])
def test_haproxy_opens_as_many_connections_as_a_router_admits_requests(most, connections):
    """With more, the router would refuse what could wait in HAProxy's queue."""
    environment, _ = path_environment("haproxy", limits(max_requests=most))
    assert environment[CONNECTIONS] == str(connections)


def test_haproxy_waits_a_little_longer_than_a_request_may_take():
    name = "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"
    assert path_environment("haproxy")[0][name] == "70"
    assert path_environment("haproxy", limits(request_timeout_s=299.5))[0][name] == "310"


def test_the_python_proxy_needs_nothing_of_haproxy():
    assert not any("HAPROXY" in name for name in path_environment("python")[0])


def test_without_the_launcher_the_error_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(settings, "COMMAND", "embedfleet-absent")
    with pytest.raises(ConfigError, match="embedfleet-absent is missing"):
        path_environment("haproxy")
    assert main(["env"]) == 1
    assert "embedfleet-absent" in capsys.readouterr().err


def test_what_the_users_environment_changes_is_said(monkeypatch):
    """An image's variables, for one, do not follow the config."""
    environment, _ = path_environment("haproxy", limits(max_requests=1_000))
    monkeypatch.setenv(CONNECTIONS, "320")
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    (line,) = differences(environment)
    assert CONNECTIONS in line
    assert "'320'" in line
    assert "'1000'" in line


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


@pytest.fixture
def short(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "SHORT", tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_a_shell_takes_it_over(short, capsys):
    assert main(["env", "--max-requests", "100", "--request-timeout-s", "90"]) == 0
    exports = capsys.readouterr().out
    wanted, _ = path_environment("auto", limits(max_requests=100, request_timeout_s=90))
    shown = subprocess.run(
        ["sh", "-c", f"{exports}env"], env={}, capture_output=True, text=True, check=True
    )
    printed = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert printed.items() >= {**wanted, "RAY_AUTH_MODE": "token"}.items()
    assert printed["RAY_TMPDIR"] == str(short / f"embedfleet-{os.getuid()}")
    assert os.access(printed[BINARY_PATH], os.X_OK)
    for name in SOCKETS:
        assert printed[name].startswith(str(short))


def test_haproxys_sockets_are_where_only_their_owner_goes(short):
    folder = private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder() == folder


def test_the_paths_of_haproxys_sockets_are_short_enough():
    files = settings.haproxy_files(settings.SHORT / f"embedfleet-{2**32 - 2}")
    admin, metrics = (len(files[name]) + 1 + NODE_ID for name in SOCKETS)
    assert admin + TEMPORARY <= 107  # HAProxy binds another name first
    assert metrics <= 107


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_a_folder_that_others_reach_is_refused(short, mode):
    private_folder().chmod(mode)
    with pytest.raises(ConfigError, match="this user alone"):
        private_folder()


def test_a_link_in_place_of_the_folder_is_refused(short, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (short / f"embedfleet-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="this user alone"):
        private_folder()
