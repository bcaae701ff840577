"""Where a service listens: whether the port is free, and how this machine reaches the service."""

from __future__ import annotations

import errno
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from cluster import cli
from cluster.service import config_file, http
from cluster.service import serve as serving
from cluster.service.config_file import ConfigError
from cluster.service.http import ServiceError
from cluster.service.listening import announce, our_service, url_of, why_not
from cluster.service.serve import _is_ray_serve, _refuse_taken_port
from tests.support.local_server import local_server
from tests.unit.cluster.service.test_announcing import Child


@contextmanager
def listener(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    with taken:
        yield taken.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", "::1", "::"])
def test_a_port_is_taken_while_a_server_listens(host):
    with listener("127.0.0.1" if host == "localhost" else host) as port:
        assert why_not(host, port).errno == errno.EADDRINUSE
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            _refuse_taken_port(host, port)
    assert why_not(host, port) is None


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"/": "embedfleet"}', 200, "Ray Serve already runs at {url}"),
        (b"{}", 200, "Ray Serve already runs at {url}"),
        (b"[]", 200, "port {port} is taken"),
        (b"\xff<html>", 200, "port {port} is taken"),
        (b"{}", 404, "port {port} is taken"),
    ],
)
def test_a_running_ray_serve_is_distinguished_from_other_servers(
    monkeypatch, capsys, body, status, words
):
    monkeypatch.setattr(serving, "_run", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(config_file, "_known_keys", lambda: pytest.fail("imported Ray"))
    with local_server(body, status) as port:
        command = ["serve", "serve_config.yaml", "--path", "python", "--port", str(port)]
        assert cli.main(command) == 2
    assert words.format(port=port, url=f"http://127.0.0.1:{port}") in capsys.readouterr().err


def test_a_silent_server_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(http, "_PROBE_TIMEOUT_S", 0.05)
    with listener("127.0.0.1") as port:
        assert not _is_ray_serve(url_of("127.0.0.1", port))
    assert not _is_ray_serve(url_of("127.0.0.1", port))


def test_a_host_of_another_machine_is_distinguished_from_a_taken_port():
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1, port 8000"):
        _refuse_taken_port("192.0.2.1", 8000)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("fd00::1", "http://[fd00::1]:80"),
        ("node", "http://node:80"),
    ],
)
def test_the_address_at_which_a_service_is_reached(host, url):
    assert url_of(host, 80) == url
    assert url_of(host, 80, tls=True) == url.replace("http:", "https:")


@pytest.fixture
def key_needed(monkeypatch):
    """A service that lists its models only to the key "schlüssel"; the environment has no keys."""
    for name in ("EMBEDFLEET_API_KEYS", "EMBEDFLEET_API_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)
    with local_server(b'{"data": [], "spaces": []}', key="schlüssel") as port:
        yield f"http://127.0.0.1:{port}"


def test_a_key_of_the_variable_is_sent(key_needed, monkeypatch):
    monkeypatch.setenv("EMBEDFLEET_API_KEYS", " , schlüssel , other")
    assert our_service(key_needed).models() == []


def test_a_key_of_the_file_is_sent(key_needed, monkeypatch, tmp_path):
    (tmp_path / "keys").write_text("schlüssel\n")
    monkeypatch.setenv("EMBEDFLEET_API_KEYS_FILE", str(tmp_path / "keys"))
    assert our_service(key_needed).models() == []


def test_a_key_of_the_command_is_sent_where_the_file_has_hashes_only(key_needed, monkeypatch):
    monkeypatch.setenv("EMBEDFLEET_API_KEY", "schlüssel")
    assert our_service(key_needed).models() == []


@pytest.mark.parametrize(("own", "sent"), [("b", "b"), ("c", "a"), ("", "a")])
def test_the_key_of_the_command_is_sent_if_the_service_accepts_it(monkeypatch, own, sent):
    monkeypatch.delenv("EMBEDFLEET_API_KEYS_FILE", raising=False)
    monkeypatch.setenv("EMBEDFLEET_API_KEYS", "a,b")
    monkeypatch.setenv("EMBEDFLEET_API_KEY", own)
    assert our_service("http://127.0.0.1:1").api_key == sent


def test_without_a_key_the_refusal_names_the_variable(key_needed):
    with pytest.raises(ServiceError, match="EMBEDFLEET_API_KEY"):
        our_service(key_needed).models()


def test_models_sends_the_key_of_the_command(key_needed, capsys):
    assert cli.main(["models", "--url", key_needed, "--api-key", "schlüssel"]) == 0
    assert cli.main(["models", "--url", key_needed, "--api-key", "other"]) == 1
    assert "EMBEDFLEET_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "host", "port"),
    [
        ((), "127.0.0.1", 8_123),
        (("--port", "8124"), "127.0.0.1", 8_124),
        (("--host", "0.0.0.0", "--port", "8124", "--allow-anyone"), "0.0.0.0", 8_124),
    ],
)
def test_the_options_override_the_config(tmp_path, monkeypatch, args, host, port):
    started = []

    def start(command, environment, url, models):
        content = yaml.safe_load(Path(command[-1]).read_text())
        started.append((content["http_options"], url, models))
        return 0

    monkeypatch.setattr(serving, "_run", start)
    monkeypatch.setattr(serving, "why_not", lambda host, port: None)
    app = {"import_path": "deployments.app:build", "args": {"models": [{"name": "e5-small"}]}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"http_options": {"port": 8_123}, "applications": [app]}))
    assert cli.main(["serve", str(file), *args]) == 0
    assert started == [({"host": host, "port": port}, url_of(host, port), ("e5-small",))]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_reach_it_with_a_key_only(monkeypatch, capsys, host):
    monkeypatch.setattr(serving, "_run", lambda *_: 0)
    monkeypatch.setattr(serving, "why_not", lambda host, port: None)
    for name in ("EMBEDFLEET_API_KEYS", "EMBEDFLEET_API_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)
    command = ["serve", "serve_config.yaml", "--host", host]
    assert cli.main(command) == 2
    assert "EMBEDFLEET_API_KEYS" in capsys.readouterr().err
    assert cli.main([*command, "--allow-anyone"]) == 0
    monkeypatch.setenv("EMBEDFLEET_API_KEYS", "key")
    assert cli.main(command) == 0


def test_a_file_of_tenants_is_a_key_too(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(serving, "_run", lambda *_: 0)
    monkeypatch.setattr(serving, "why_not", lambda host, port: None)
    for name in ("EMBEDFLEET_API_KEYS", "EMBEDFLEET_API_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)
    keys = tmp_path / "keys.yaml"
    args = {"models": [{"name": "e5-small"}], "api": {"keys_file": str(keys)}}
    app = {"import_path": "deployments.app:build", "args": args}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"applications": [app]}))
    command = ["serve", str(file), "--host", "0.0.0.0"]
    assert cli.main(command) == 2
    assert "api.keys_file: there is no " in capsys.readouterr().err
    keys.write_text(f"keys: [{{name: a, sha256: {'a' * 64}}}]")
    assert cli.main(command) == 0


@pytest.fixture
def https(tmp_path):
    """A server with a self-signed certificate for another name."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=elsewhere -days 1".split()
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ready)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield url_of("127.0.0.1", server.server_port, tls=True)
    server.shutdown()
    server.server_close()


class Ready(BaseHTTPRequestHandler):
    """Answers every request with an empty list of models."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": [], "spaces": []}')

    def log_message(self, *_):
        pass


def test_a_service_with_tls_is_reported_as_ready(https, capsys):
    announce(Child(20), our_service(https), ())
    output = capsys.readouterr().out
    assert f"at {https}" in output
    assert "MODEL" in output


@pytest.fixture
def with_tls(tmp_path, monkeypatch):
    """A config with a certificate, and the URLs of the services that are started from it."""
    started = []
    monkeypatch.setattr(
        serving, "_run", lambda command, environment, url, models: started.append(url) or 0
    )
    monkeypatch.setattr(serving, "why_not", lambda host, port: None)
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    app = {"import_path": "deployments.app:build", "args": {"models": [{"name": "e5-small"}]}}
    http = {"ssl_keyfile": "key.pem", "ssl_certfile": "certificate.pem"}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"http_options": http, "applications": [app]}))
    return file, started


def test_tls_behind_haproxy_is_refused(with_tls, monkeypatch, capsys):
    file, started = with_tls
    assert cli.main(["serve", str(file), "--path", "haproxy"]) == 2
    assert "ssl_certfile" in capsys.readouterr().err
    assert cli.main(["serve", str(file), "--path", "python"]) == 0
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert cli.main(["serve", str(file), "--path", "haproxy"]) == 0
    assert started == ["https://127.0.0.1:8000"] * 2


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_unusable_keys_keep_it_from_starting(tmp_path, monkeypatch, capsys, host):
    monkeypatch.setattr(serving, "_run", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(serving, "why_not", lambda host, port: None)
    monkeypatch.delenv("EMBEDFLEET_API_KEYS", raising=False)
    monkeypatch.setenv("EMBEDFLEET_API_KEYS_FILE", str(tmp_path / "keys"))
    for words in ("No such file", "which holds no key"):
        assert cli.main(["serve", "serve_config.yaml", "--host", host]) == 2
        assert words in capsys.readouterr().err
        (tmp_path / "keys").touch()
