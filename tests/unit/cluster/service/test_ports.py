"""The ports of a service, chosen beside what else runs on the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from cluster.service.haproxy import haproxy
from cluster.service.ports import STATISTICS, chosen_ports, free_block, is_free, orphaned_haproxy
from testing.running import free_port
from testing.waiting import until


def test_two_services_share_no_port():
    with socket.create_server(("127.0.0.1", 0)) as first:
        assert not is_free(first.getsockname()[1])
    ports = [port for _ in range(20) for port in chosen_ports({}).values()]
    assert all(int(port) < 32_768 for port in ports)  # above are those of outgoing connections
    blocks = {int(chosen_ports({})["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"]) for _ in range(20)}
    assert len(blocks) > 10


def test_a_block_in_use_is_left_out():
    taken = free_block()
    with socket.create_server(("127.0.0.1", taken + 57)):
        assert all(free_block() != taken for _ in range(300))


def test_statistics_stay_at_their_known_ports_if_these_are_free():
    ports = chosen_ports({})
    for name, known in STATISTICS.items():
        assert (ports[name] == str(known)) == is_free(known)


def test_what_the_user_sets_stays():
    name = "RAY_SERVE_HAPROXY_STATS_PORT"
    assert chosen_ports({name: "12345"})[name] == "12345"


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
