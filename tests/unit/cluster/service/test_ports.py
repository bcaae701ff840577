"""The ports of a service, chosen beside what else runs on the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from cluster.service import ports as ports_module
from cluster.service.haproxy import haproxy
from cluster.service.ports import STATISTICS, chosen_ports, free_block, is_free, orphaned_haproxy
from testing.running import free_port
from testing.waiting import until


@pytest.fixture
def claims():
    with ExitStack() as stack:
        yield stack


def test_two_services_share_no_port(claims):
    with socket.create_server(("127.0.0.1", 0)) as first:
        assert not is_free(first.getsockname()[1])
    ports = [port for _ in range(20) for port in chosen_ports({}, claims).values()]
    assert all(int(port) < 32_768 for port in ports)  # above are those of outgoing connections


def test_a_block_in_use_is_left_out():
    taken = free_block()
    with socket.create_server(("127.0.0.1", taken + 57)):
        assert all(free_block() != taken for _ in range(300))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' abstract sockets")
def test_services_that_start_at_once_choose_different_ports(claims, monkeypatch):
    known = {name: free_port() for name in STATISTICS}
    monkeypatch.setattr(ports_module, "STATISTICS", known)
    chosen = [port for _ in range(20) for port in chosen_ports({}, claims).values()]
    assert len(set(chosen)) == len(chosen)  # none of them listens yet
    claims.close()
    again = chosen_ports({}, claims)
    assert {name: int(again[name]) for name in known} == known


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' abstract sockets")
def test_a_claim_ends_with_its_process(claims, monkeypatch):
    name = "RAY_SERVE_HAPROXY_STATS_PORT"
    known = {**STATISTICS, name: free_port()}
    monkeypatch.setattr(ports_module, "STATISTICS", known)
    code = f"""
import sys, time
from contextlib import ExitStack
from cluster.service import ports
ports.STATISTICS = {known!r}
stack = ExitStack()
print(ports.chosen_ports({{}}, stack)[{name!r}], flush=True)
time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert int(other.stdout.readline()) == known[name]
        assert int(chosen_ports({}, claims)[name]) != known[name]
    finally:
        other.kill()
        other.communicate(timeout=20)
    assert int(chosen_ports({}, claims)[name]) == known[name]


def test_statistics_stay_at_their_known_ports_if_these_are_free(claims, monkeypatch):
    known = {name: free_port() for name in STATISTICS}
    monkeypatch.setattr(ports_module, "STATISTICS", known)
    with socket.create_server(("127.0.0.1", known["RAY_SERVE_HAPROXY_STATS_PORT"])):
        ports = chosen_ports({}, claims)
    assert ports["RAY_SERVE_HAPROXY_METRICS_PORT"] == str(known["RAY_SERVE_HAPROXY_METRICS_PORT"])
    assert ports["RAY_SERVE_HAPROXY_STATS_PORT"] != str(known["RAY_SERVE_HAPROXY_STATS_PORT"])


def test_what_the_user_sets_stays(claims):
    name = "RAY_SERVE_HAPROXY_STATS_PORT"
    assert chosen_ports({name: "12345"}, claims)[name] == "12345"


@pytest.fixture
def orphan(tmp_path):
    """An HAProxy whose parent has ended; yields its pid and port."""
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"defaults\n  mode http\nlisten all\n  bind 127.0.0.1:{port}\n")
    start = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=-3).pid)"
    command = [sys.executable, "-c", start, haproxy(), "-db", "-f", str(config)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    pid = int(run.stdout)
    until(lambda: not is_free(port), 20, "HAProxy listens")
    yield pid, port
    os.kill(pid, 9)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' /proc")
def test_an_orphaned_haproxy_is_known_from_other_servers(orphan):
    pid, port = orphan
    assert orphaned_haproxy(port) == pid
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert orphaned_haproxy(other.getsockname()[1]) is None
    assert orphaned_haproxy(free_port()) is None
