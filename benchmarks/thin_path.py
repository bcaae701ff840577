"""What the thin path brings: one text a request, through Serve as it comes and as we start it.

python -m benchmarks.thin_path
"""

from __future__ import annotations

from benchmarks.closed_loop import wrk
from benchmarks.harness import MODEL, QUERY, report, service

PATHS = {
    "Serve's defaults": ("python", {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}),
    "Python proxy, throughput mode": ("python", {}),
    "HAProxy, throughput mode": ("haproxy", {}),
}
CONNECTIONS = (1, 16, 64)


def main() -> None:
    """Prints the table."""
    rows = []
    for name, (path, environment) in PATHS.items():
        with service(path=path, environment=environment) as running:
            url = f"{running.url}/v1/embeddings"
            wrk(url, {"model": MODEL, "input": QUERY}, 8, 3)
            for connections in CONNECTIONS:
                found = wrk(url, {"model": MODEL, "input": QUERY}, connections)
                rows.append(
                    (
                        name,
                        connections,
                        f"{found.p50_s * 1e3:.1f}",
                        f"{found.p99_s * 1e3:.1f}",
                        f"{found.rate:.0f}",
                        found.errors,
                        f"{found.cpu_s:.1f}",
                    )
                )
    report(
        "thin_path",
        ("PATH", "CONNECTIONS", "P50 MS", "P99 MS", "REQ/S", "ERRORS", "GENERATOR CPU S"),
        rows,
    )


if __name__ == "__main__":
    main()
