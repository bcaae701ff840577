"""The ports that a service takes beside its own, chosen so that two services can share a machine.

Ray Serve's defaults are the same for every service: the second one would fail, or get the first one's
requests from its HAProxy.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

# below the ports of outgoing connections (32,768 and up), above most of those of Ray's workers
_BLOCKS = range(20_000, 30_000, 100)
_FALLBACK_HTTP, _FALLBACK_GRPC, _METRICS, _STATS = range(96, 100)
STATISTICS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}


def chosen_ports(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that give a service ports of its own; those of ``environ`` stay.

    HAProxy's statistics keep their known ports if these are free. Raises OSError if no block is free.
    """
    first = free_block()
    metrics, stats = (
        port if is_free(port) else first + place
        for port, place in zip(STATISTICS.values(), (_METRICS, _STATS), strict=True)
    )
    ports = {
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": first,
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": first + _FALLBACK_HTTP - 1,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": first + _FALLBACK_HTTP,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": first + _FALLBACK_GRPC,
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
    }
    return {name: environ.get(name, str(port)) for name, port in ports.items()}


def free_block() -> int:
    """Returns the first of a hundred free ports. Raises OSError if there is no such block.

    The block is drawn at random, so that two services that start at once rarely get the same one.
    """
    for first in random.sample(_BLOCKS, len(_BLOCKS)):
        with ExitStack() as probes, suppress(OSError):
            for port in range(first, first + _BLOCKS.step):
                probes.enter_context(socket.socket()).bind(("0.0.0.0", port))
            return first
    raise OSError(f"no hundred ports are free between {_BLOCKS.start} and {_BLOCKS.stop}")


def is_free(port: int) -> bool:
    """Returns whether a server could listen at this port on all interfaces."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def orphaned_haproxy(port: int) -> int | None:
    """Returns the pid of an HAProxy that listens at this port though the Ray that started it has ended.

    Its routes and its statistics still answer, so over HTTP it looks like a service.
    """
    sockets = {f"socket:[{inode}]" for inode in _listeners(port)}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if (process / "comm").read_text().strip() == "haproxy" and sockets & _files(process):
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                command = Path("/proc", parent, "cmdline").read_bytes()
                return None if command.startswith(b"ray::") else int(process.name)
    return None


def _listeners(port: int) -> Iterator[str]:
    """Yields the inodes of the sockets that listen at this port, at any address."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _files(process: Path) -> set[str]:
    return {str(link.readlink()) for link in (process / "fd").iterdir()}
