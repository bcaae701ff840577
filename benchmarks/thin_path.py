"""What the fast way in gains: one text a request, with Serve's defaults and as we start Serve.

python -m benchmarks.thin_path
"""

from __future__ import annotations

from benchmarks.common.load import ClosedLoop, closed_loop
from benchmarks.common.reporting import parser, report
from benchmarks.common.service import MODEL, QUERY, service

DEFAULTS = "Serve's defaults"
PATHS = {
    DEFAULTS: ("python", {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}),
    "Python proxy, throughput mode": ("python", {}),
    "HAProxy, throughput mode": ("haproxy", {}),
}
CONNECTIONS = (1, 16, 64)
BODY = {"model": MODEL, "input": QUERY}


def measure(path: str, environment: dict[str, str]) -> dict[int, ClosedLoop]:
    """Returns a closed loop's figures by number of connections."""
    with service(path=path, environment=environment) as running:
        url = f"{running.url}/v1/embeddings"
        closed_loop(url, BODY, 8, 3)
        return {connections: closed_loop(url, BODY, connections) for connections in CONNECTIONS}


def main() -> None:
    """Prints the table."""
    parser("thin_path", __doc__).parse_args()
    results = {name: measure(*path) for name, path in PATHS.items()}
    rows = [
        (
            name,
            connections,
            f"{loop.p50_s * 1e3:.1f}",
            f"{loop.p99_s * 1e3:.1f}",
            f"{loop.rate:.0f}",
            f"{loop.rate / results[DEFAULTS][connections].rate:.2f}",
            loop.errors,
            f"{loop.cpu_s:.1f}",
        )
        for name, loops in results.items()
        for connections, loop in loops.items()
    ]
    header = ("PATH", "CONNECTIONS", "P50 MS", "P99 MS", "REQ/S", "TO DEFAULTS", "ERRORS")
    report("thin_path", (*header, "GENERATOR CPU S"), rows)


if __name__ == "__main__":
    main()
