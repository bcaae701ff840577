"""What `embedfleet-haproxy` changes in Ray's configuration, and that the real HAProxy takes it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from cluster.service.haproxy import CONNECTIONS, PROBES, amended, haproxy
from deployments.api.routes import PROBE_PATHS
from deployments.core.errors import Overloaded
from testing.running import free_port
from testing.waiting import until
from tests.support.admin_socket import ask

LAUNCH = "from cluster.service.haproxy import main; main()"
FAIL_SOON = {"health_check_inter": "300ms", "health_check_fastinter": "300ms"}
RETRY_ON = "conn-failure empty-response"  # as cluster/service/environment.py sets it


@pytest.fixture(scope="module")
def folder():
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ef-", dir="/tmp") as name:
        yield Path(name)


def rendered(folder, port, *servers, host="127.0.0.1", fallback=None, **settings):
    """Writes the configuration as Ray does, for an app with these ports of routers; returns the file.

    ``fallback`` is the port of Serve's own proxy.
    """
    config = HAProxyConfig(
        has_received_routes=bool(servers or fallback),
        has_received_servers=bool(servers or fallback),
        http_options=HTTPOptions(host=host, port=port),
        socket_path=str(folder / "admin.sock"),
        metrics_socket_path=str(folder / "metrics.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_port=free_port(),
        stats_port=free_port(),
        timeout_connect_s=2,
        timeout_client_s=10,
        timeout_server_s=10,
        **settings,
    )
    routers = [ServerConfig(f"router{number}", "127.0.0.1", number) for number in servers]
    proxy = ServerConfig("proxy", "127.0.0.1", fallback) if fallback else None
    app = BackendConfig("http-app", "/", servers=routers, app_name="app", fallback_server=proxy)
    apps = {"http-app": app} if servers or fallback else {}
    api = HAProxyApi(config, apps, str(folder / "haproxy.cfg"))
    api._generate_config_file_internal()
    return folder / "haproxy.cfg"


@pytest.fixture
def launched(folder):
    """Starts the launcher as Ray does, and waits until HAProxy listens."""
    started = []

    def launch(*servers, **settings):
        port = free_port()
        file = rendered(folder, port, *servers, **settings)
        command = [sys.executable, "-c", LAUNCH, "-db", "-f", str(file)]
        process = subprocess.Popen(command, env={**os.environ, CONNECTIONS: "7"})
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(url), 20, "HAProxy listens")
        return url, process

    yield launch
    for process in started:
        process.kill()
        process.wait(10)


def answers(url):
    try:
        return httpx.get(f"{url}/-/healthz", verify=False)
    except httpx.TransportError:
        return None


def post(url, **options):
    """Sends a request on a connection of its own, without loading certificates, which takes 20 ms."""
    return httpx.post(url, content=b"{}", verify=False, **options)


@pytest.mark.parametrize("servers", [(), (20_000,)])
def test_rays_own_template_is_changed_in_every_place(folder, servers):
    text = rendered(folder, 8_000, *servers).read_text()
    config = amended(text, folder, "7")
    assert "mode 666" not in config
    assert "mode 600 level admin" in config
    binds = re.findall(r"^ *bind (\S+):", config, re.MULTILINE)
    assert binds == ["127.0.0.1"] * 3  # the service, Prometheus and the statistics
    assert config.count("/embedfleet-503.http") == 2
    assert config.count("/embedfleet-504.http") == 1
    assert config.count("/embedfleet-408.http") == 1
    assert config.count("/embedfleet-429.http") == 1
    assert ("{ queue ge 21 }" in config) == bool(servers)
    assert "timeout http-request 40s" in config
    assert ("status 404" in config) == bool(servers)
    assert (" maxconn 7\n" in config) == bool(servers)


@pytest.mark.parametrize(("servers", "observed"), [((20_000,), 1), ((20_000, 20_001), 0)])
def test_only_a_single_router_is_marked_down_by_its_connections(folder, servers, observed):
    text = rendered(folder, 8_000, *servers).read_text()
    assert text.count("observe layer4") == len(servers)
    assert amended(text, folder, "7").count("observe layer4") == observed


def test_a_service_for_other_machines_shows_them_its_statistics(folder):
    config = amended(rendered(folder, 8_000, host="0.0.0.0").read_text(), folder, None)
    assert re.findall(r"^ *bind (\S+):", config, re.MULTILINE) == ["*"] * 3


def test_another_template_is_refused(folder):
    text = rendered(folder, 8_000).read_text()
    with pytest.raises(ValueError, match="mode 666"):
        amended(text.replace("mode 666", "mode 660"), folder, None)
    with pytest.raises(ValueError, match="http_frontend"):
        amended(text.replace("http_frontend", "main"), folder, None)


def test_before_any_router_is_known_callers_are_told_to_retry(launched, folder):
    url, process = launched()
    answer = post(f"{url}/v1/embeddings")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "model_unavailable"
    assert Path(f"/proc/{process.pid}/exe").readlink() == Path(haproxy())
    assert (folder / "admin.sock").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_cannot_use_the_admin_socket(launched, folder):
    launched()
    assert "Version" in ask(folder / "admin.sock", "show info")
    child = os.fork()
    if not child:
        try:
            os.setgid(65_534)
            os.setuid(65_534)
            ask(folder / "admin.sock", "show info")
        except PermissionError:
            os._exit(0)
        except BaseException:
            os._exit(2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_router_that_is_gone_is_a_503_in_our_own_shape(launched):
    url, _ = launched(free_port())
    answer = post(f"{url}/v1/embeddings")
    assert answer.status_code == 503
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


class Router(BaseHTTPRequestHandler):
    """Answers 200 to everything, each request on its own thread."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Accepts late without refusing, as a router does; by default only five connections may wait."""

    request_queue_size = 2_048


@contextmanager
def listening(router):
    """Yields the port at which a router listens."""
    with Server(("127.0.0.1", 0), router) as server:
        server.handle_error = lambda *_: None  # HAProxy closes the connections of its checks
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def hangs_at_a_post():
    """A router that answers until it gets a POST, and nothing from then on; yields its port."""
    hangs, end = threading.Event(), threading.Event()

    class Hangs(Router):
        def do_GET(self):
            if hangs.is_set():
                end.wait(30)
            super().do_GET()

        def do_POST(self):
            hangs.set()
            end.wait(30)

    with listening(Hangs) as port:
        yield port
        end.set()


def test_requests_of_a_router_that_hangs_end_with_its_health_checks(launched, hangs_at_a_post):
    """Without `on-marked-down` they would wait for the timeout of the server, 10 s here."""
    url, _ = launched(hangs_at_a_post, **FAIL_SOON)
    until(lambda: answers(url).status_code == 200, 20, "the router is known to be up")
    started = time.monotonic()
    answer = post(f"{url}/v1/embeddings", timeout=30)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert time.monotonic() - started < 5


def test_requests_whose_bodies_come_after_their_heads_are_sent_again(launched, hangs_at_a_post):
    """Without `http-buffer-request` they would get 503, or an end of the connection without an answer."""
    with listening(Router) as healthy:
        url, _ = launched(hangs_at_a_post, healthy, **FAIL_SOON, retry_on=RETRY_ON)
        until(lambda: answers(url).status_code == 200, 20, "the routers are known to be up")
        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(status_of_a_late_body, [urlsplit(url)] * 4))
    assert statuses == [b"200"] * 4


def test_requests_of_a_router_that_has_died_go_to_the_other(launched):
    """Marked down by three refused connections, it would cut off those that are connecting to it."""
    with listening(Router) as healthy:
        with listening(Router) as dies:
            url, _ = launched(healthy, dies, retry_on=RETRY_ON, health_check_inter="60s")
            until(lambda: answers(url).status_code == 200, 20, "the routers are known to be up")
        # fewer than a router's connections: if the other one is full, HAProxy tries the dead one again
        with ThreadPoolExecutor(6) as pool:
            statuses = list(pool.map(lambda _: post(url).status_code, range(400)))
    assert set(statuses) == {200}


def test_while_no_router_is_known_serves_own_proxy_is_asked(launched):
    with listening(Router) as port:
        url, _ = launched(fallback=port)
        until(lambda: answers(url).status_code == 200, 20, "the proxy is known to be up")
        assert post(url).status_code == 200


def test_haproxy_knows_the_apps_probes():
    assert set(PROBES) == PROBE_PATHS


@pytest.fixture
def waits_with_posts():
    """A router that answers each POST once the event is set; yields its port and the event."""
    goes_on = threading.Event()

    class Waits(Router):
        def do_POST(self):
            goes_on.wait(30)
            super().do_POST()

    with listening(Waits) as port:
        yield port, goes_on
        goes_on.set()


def test_what_finds_no_place_in_the_queue_is_refused_at_once(launched, waits_with_posts):
    """Seven requests at the router, 21 in the queue; the others do not wait for these. Probes do."""
    port, goes_on = waits_with_posts
    url, _ = launched(port)
    until(lambda: answers(url).status_code == 200, 20, "the router is known to be up")
    with ThreadPoolExecutor(40) as pool:
        calls = [pool.submit(post, url, timeout=30) for _ in range(34)]
        refused = [call.result() for call in islice(as_completed(calls, timeout=10), 6)]
        probe = pool.submit(httpx.get, f"{url}/health", timeout=30)
        goes_on.set()
        statuses = Counter(call.result().status_code for call in calls)
        assert probe.result().status_code == 200
    assert statuses == {200: 28, 429: 6}
    for answer in refused:
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == (Overloaded.type, Overloaded.code)
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["retry-after-ms"] == "1000"


def status_of_a_late_body(address):
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n")
        time.sleep(0.2)
        connection.sendall(b"{}")
        return connection.recv(4_096)[9:12]


def test_it_ends_with_the_process_that_has_started_it(folder):
    port = free_port()
    file = rendered(folder, port)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, LAUNCH, str(file)])
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}"), 20, "HAProxy listens")
        parent.send_signal(signal.SIGKILL)
        until(lambda: not answers(f"http://127.0.0.1:{port}"), 10, "it listens no more")
    finally:
        parent.kill()
        parent.wait(10)


PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], "-db", "-f", sys.argv[2]]).wait()
"""
