"""The ports that a service takes beside its own, chosen so that two services can share a machine.

Ray Serve's defaults are the same for every service: the second one would fail, or get the first one's
requests from its HAProxy.

Serve binds these ports half a minute after they are chosen. So a service claims them, and another one
that starts meanwhile takes others. A claim is an abstract Unix socket of Linux. Like a port, its name is
known to all users of the machine, and it is gone once its process has ended, however that ended.
"""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

# below the ports of outgoing connections (32,768 and up), above most of those of Ray's workers
_BLOCKS = range(20_000, 30_000, 100)
_FALLBACK_HTTP, _FALLBACK_GRPC, _METRICS, _STATS = range(96, 100)
STATISTICS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
_HAS_CLAIMS = sys.platform == "linux"


def chosen_ports(environ: Mapping[str, str], claims: ExitStack) -> dict[str, str]:
    """Returns the variables that give a service ports of its own; those of ``environ`` stay.

    No other service chooses the same ones until ``claims`` is closed. HAProxy's statistics keep their
    known ports if these are free. Raises OSError if no block is free.
    """
    first = next((block for block in _free_blocks() if _claim(block, claims)), None)
    if first is None:
        raise _no_block()
    metrics, stats = (
        port if is_free(port) and _claim(port, claims) else first + place
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
    """Returns the first of a hundred free ports. Raises OSError if there is no such block."""
    if (first := next(_free_blocks(), None)) is None:
        raise _no_block()
    return first


def _free_blocks() -> Iterator[int]:
    """Yields the first port of each free block, in a random order."""
    for first in random.sample(_BLOCKS, len(_BLOCKS)):
        with ExitStack() as probes, suppress(OSError):
            for port in range(first, first + _BLOCKS.step):
                probes.enter_context(socket.socket()).bind(("0.0.0.0", port))
            probes.close()
            yield first


def _no_block() -> OSError:
    return OSError(f"no hundred ports are free between {_BLOCKS.start} and {_BLOCKS.stop}")


def _claim(port: int, claims: ExitStack) -> bool:
    """Claims a port for this process. Returns False if another service has done so before."""
    if not _HAS_CLAIMS:
        return True
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0embedfleet-port-{port}")
    except OSError:
        claim.close()
        return False
    claims.callback(claim.close)
    return True


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
