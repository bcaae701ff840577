"""``embedfleet serve``: sets the environment that makes Serve fast, then runs ``serve run``.

``serve run serve_config.yaml`` starts the same service on a slower path.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

from cluster.service import fate_sharing
from cluster.service.config_file import (
    LOOPBACK,
    ConfigError,
    Ingress,
    listening_at,
    read_address,
    read_config,
    require_keys_files,
)
from cluster.service.environment import SHORT, differences, haproxy_files, path_environment
from cluster.service.http import Service
from cluster.service.listening import announce, our_service, url_of, why_not
from cluster.service.ports import STATISTICS, chosen_ports, orphaned_haproxy
from deployments.api.auth import ALLOWED_HOSTS, listed_keys
from deployments.ray_private import ray_that_listens

_STOPPING = (
    b"embedfleet: stopping once open requests are answered; interrupt again to stop at once\n"
)
_LOOPBACKS = (LOOPBACK, "localhost", "::1")
_LOCAL_NAMES = "localhost,host.docker.internal,host.containers.internal"
_REAP_EVERY_S = 5.0
_END_S = 10.0  # for processes that have been killed


def serve(
    config: str,
    path: str,
    host: str | None = None,
    port: int | None = None,
    *,
    allow_anyone: bool = False,
) -> int:
    """Runs the service until a signal stops it; returns the exit status.

    ``host`` and ``port`` override those of the config. Without API keys, the service listens on loopback
    alone unless ``allow_anyone`` is set.
    """
    try:
        configured_host, configured_port, tls = read_address(Path(config))
        host, port = host or configured_host or LOOPBACK, port or configured_port
        # first, since Ray takes seconds to import
        _refuse_taken_port(host, port, url=url_of(host, port, tls))
        ingress = read_config(Path(config))
        require_keys_files(ingress)
        _refuse_exposure(host, allow_anyone, bool(ingress.keys_files))
        environment, line = path_environment(path, ingress)
        _refuse_tls_behind_haproxy(ingress.tls, environment)
        _refuse_taken_statistics(environment)
        what = ", ".join(ingress.models) or "the applications of the config"
        for notice in (f"starting {what}; {line}", *differences(environment)):
            print(f"embedfleet: {notice}", flush=True)
        return _start(Path(config), host, port, {**environment, **_allowed_hosts(host)}, ingress)
    except ConfigError as error:
        print(f"embedfleet: {error}", file=sys.stderr)
        return 2


def _start(
    config: Path, host: str, port: int, environment: Mapping[str, str], ingress: Ingress
) -> int:
    with ExitStack() as stack:
        ports = _own_ports(stack)
        file = stack.enter_context(listening_at(config, host, port))
        files = stack.enter_context(_haproxy_folder())
        command = [sys.executable, "-m", "cluster.service.drain", str(file)]
        url = url_of(host, port, ingress.tls)
        return _run(command, {**environment, **ports, **files}, url, ingress.models)


@contextmanager
def _haproxy_folder() -> Iterator[dict[str, str]]:
    """Yields the variables of HAProxy's files, in a folder of this service alone."""
    with tempfile.TemporaryDirectory(prefix="ef-", dir=SHORT, ignore_cleanup_errors=True) as folder:
        yield haproxy_files(Path(folder))


def _own_ports(claims: ExitStack) -> dict[str, str]:
    try:
        return chosen_ports(os.environ, claims)
    except OSError as error:
        raise ConfigError(str(error)) from error


def _run(
    command: list[str], environment: Mapping[str, str], url: str, models: Collection[str]
) -> int:
    stop = _Stop()
    others = fate_sharing.children()  # of a shell that this command has replaced
    fate_sharing.adopt_orphans()
    # its own process group: Ctrl-C in the terminal reaches it only through us. Not its own session: the
    # kernel would balance that against the caller's (autogroup), which stalls both (benchmarks/log)
    child = subprocess.Popen(
        command, env={**environment, **os.environ}, process_group=0, stdin=subprocess.DEVNULL
    )
    stop.passes_on_to(child)
    try:
        with closing(our_service(url)) as service:
            announce(child, service, models)
        status = _wait(child, others)
    finally:
        child.terminate()
        left = fate_sharing.end_children(_END_S, others)
    if left:
        print(f"embedfleet: processes {left} do not end", file=sys.stderr)
    if stop.requests:
        print("embedfleet: stopped", flush=True)
        return 0
    print(f"embedfleet: the service {_how_it_ended(status)}; see above why", file=sys.stderr)
    return status if status > 0 else 1


def _wait(child: subprocess.Popen[bytes], others: Collection[int]) -> int:
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(_REAP_EVERY_S)
        fate_sharing.reap_orphans({child.pid, *others})


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"has ended by itself, with status {status}"


def _refuse_tls_behind_haproxy(tls: bool, environment: Mapping[str, str]) -> None:
    """Ray 2.60 does not configure HAProxy for TLS; it would speak plain HTTP to routers that use TLS."""
    used = {**environment, **os.environ}.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    if tls and used:
        raise ConfigError(
            "http_options.ssl_certfile: HAProxy does not support TLS under Ray Serve; terminate TLS in "
            "front of the service, or use --path python without RAY_SERVE_ENABLE_HA_PROXY"
        )


def _refuse_taken_statistics(environment: Mapping[str, str]) -> None:
    if "RAY_SERVE_ENABLE_HA_PROXY" in environment:
        for name in STATISTICS:
            if name in os.environ:  # else `chosen_ports` finds a free one
                _refuse_taken_port("0.0.0.0", int(os.environ[name]), f"another {name}")


def _refuse_taken_port(
    host: str, port: int, what: str = "another --port", url: str | None = None
) -> None:
    if (error := why_not(host, port)) is None:
        return
    if error.errno != errno.EADDRINUSE:
        raise ConfigError(
            f"cannot listen at {host}, port {port} ({error}); set others with --host and --port or in "
            "http_options of the config"
        ) from error
    if pid := orphaned_haproxy(port):
        raise ConfigError(
            f"port {port} is taken by the HAProxy of a service that has ended; end it with `kill {pid}`"
        ) from error
    if url and _is_ray_serve(url):  # it would keep its own address and end with this command
        address = ray_that_listens(port)
        raise ConfigError(
            f"Ray Serve already runs at {url}{f', on the Ray at {address}' if address else ''}. Set "
            "another --port to run beside it, or end it with Ctrl-C in its `embedfleet serve`. If Ray "
            'was started by hand, call `eval "$(embedfleet env)"`; then `serve deploy CONFIG` replaces '
            "its app, and `serve shutdown` ends it"
        ) from error
    raise ConfigError(
        f"port {port} is taken ({error}); stop the program that listens there, or set {what}"
    ) from error


def _is_ray_serve(url: str) -> bool:
    with closing(Service(url, is_ours=True)) as service:
        return service.is_ray_serve()


def _refuse_exposure(host: str, allow_anyone: bool, has_keys_file: bool) -> None:
    try:
        keys = listed_keys()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the API keys cannot be read: {error}") from error
    if not (keys or has_keys_file or allow_anyone or host in _LOOPBACKS):
        raise ConfigError(
            f"anyone who reaches {host} could call the service; set EMBEDFLEET_API_KEYS or "
            "`api.keys_file` to require a key, or give --allow-anyone"
        )


def _allowed_hosts(host: str) -> dict[str, str]:
    """Returns the names by which a service of this machine alone is called, containers' names included.

    Any page in a browser could have its own name resolve to the loopback address.
    """
    return {ALLOWED_HOSTS: _LOCAL_NAMES} if host in _LOOPBACKS else {}


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
