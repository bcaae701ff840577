"""What a stranger on the network and another user of the machine get from a service.

Each attempt is in a table. What succeeds has to be in docs/deploying.md, under "What listens where".
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import pytest
import ray
from grpc import StatusCode

from testing.hashing import save_model
from testing.processes import descendants
from testing.running import API_KEY, running_service
from tests.support.strangers import as_nobody, listeners, unix_sockets

pytestmark = pytest.mark.long
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
MODEL = "hashed"
TEXT = "a text that nobody else may read"
LOOPBACK = ("127.0.0.1", "::1")
# who listens, by a part of the command line
OPEN = {"gcs_server": "GCS", "raylet/raylet": "raylet", "dashboard/agent.py": "agent"}
# what runs code, reads what is kept, or ends processes
CALLS = (
    "NodeInfoGcsService/GetAllNodeInfo",
    "InternalKVGcsService/InternalKVGet",
    "JobInfoGcsService/GetAllJobInfo",
    "ActorInfoGcsService/KillActorViaGcs",
    "NodeManagerService/GetNodeStats",
    "NodeManagerService/ShutdownRaylet",
    "CoreWorkerService/PushTask",
    "CoreWorkerService/KillActor",
    "CoreWorkerService/Exit",
)
REFUSALS = {StatusCode.UNAUTHENTICATED, StatusCode.UNIMPLEMENTED, StatusCode.UNAVAILABLE}
REQUESTS = (
    ("GET", "/"),
    ("GET", "/api/version"),
    ("GET", "/nodes?view=summary"),
    ("GET", "/api/v0/logs"),
    ("GET", "/api/serve/applications/"),
    ("PUT", "/api/serve/applications/"),
    ("POST", "/api/jobs/"),
    ("POST", "/api/job_agent/jobs/"),
    ("GET", "/v1/models"),
    ("POST", "/v1/embeddings"),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("models") / MODEL)
    models, app = [{"name": MODEL, "path": str(folder)}], {"import_path": "testing.hashing:build"}
    # where Ray and HAProxy keep their files is part of what is tried
    with running_service(models, [MODEL], "auto", {"RAY_TMPDIR": None}, app) as running:
        with running.client() as http:
            assert http.post("/v1/embeddings", json={"input": TEXT}).status_code == 200
        yield running


@pytest.fixture(scope="module")
def ports(service):
    """Where the service's processes listen."""
    return listeners(service.process.pid)


def reachable(listener):
    """Returns an address and port at which this machine reaches a listener."""
    host = "127.0.0.1" if listener.address in LOOPBACK else ray.util.get_node_ip_address()
    return f"{host}:{listener.port}"


def code_of(address, call):
    """Returns the status of a call of Ray's without arguments and without a token."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(f"/ray.rpc.{call}")(b"", timeout=5)
        except grpc.RpcError as error:
            return error.code()
    return StatusCode.OK


def token():
    return (Path.home() / ".ray" / "auth_token").read_text().strip()


def test_others_on_the_network_reach_rays_ports_alone(ports):
    """HAProxy, its statistics and the routers listen where the service does, on loopback here."""
    open_to_others = [listener for listener in ports if listener.address not in LOOPBACK]
    print(*open_to_others, sep="\n")
    assert {"gcs_server", "raylet/raylet"} <= {kind_of(port.command) for port in open_to_others}
    assert not [port for port in open_to_others if "haproxy" in port.command]


def kind_of(command):
    return next((mark for mark in OPEN if mark in command), command.split()[0])


@pytest.mark.parametrize("call", CALLS)
def test_rays_ports_refuse_calls_without_its_token(ports, call):
    codes = {listener: code_of(reachable(listener), call) for listener in ports}
    assert set(codes.values()) <= REFUSALS, codes
    assert StatusCode.UNAUTHENTICATED in codes.values()


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_no_port_answers_a_request_without_a_token_or_a_key(ports, method, path):
    """Ports of metrics answer with these, whatever the path; the dashboard has a page at `/`."""
    answers = {port: answer_of(f"http://{reachable(port)}{path}", method) for port in ports}
    answered = {port: text[:80] for port, text in answers.items() if text and "# HELP" not in text}
    assert {port.command for port in answered if "dashboard.py" not in port.command} == set()
    assert path == "/" or not answered, answered


def answer_of(url, method):
    """Returns the text of an answer that is no refusal; None for a refusal, or without HTTP."""
    with suppress(httpx.HTTPError):
        body = {"input": "a"} if method != "GET" else None
        answer = httpx.request(method, url, json=body, timeout=5)
        return answer.text if answer.is_success else None
    return None


def test_a_replica_closes_connections_that_do_not_know_its_token(ports):
    replicas = [port for port in ports if "ServeReplica:embedfleet:encoder-" in port.command]
    assert replicas
    for listener in replicas:
        host, _, port = reachable(listener).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(1_000))
            with suppress(ConnectionResetError):
                assert TEXT.encode() not in connection.recv(10_000)
                assert connection.recv(10_000) == b""


@root_only
def test_another_user_cannot_use_the_services_sockets(service):
    paths = unix_sockets(service.process.pid)

    def connected():
        names = []
        for path in paths:
            with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
                connection.connect(str(path))
                names.append(path.name)
        return names

    assert "admin.sock" in connected(), "the owner can"
    assert as_nobody(connected) == []


@root_only
def test_another_user_finds_no_secret_and_can_write_nothing(service):
    pids = list(descendants(service.process.pid))
    folders = {path.parent for path in unix_sockets(service.process.pid)}
    session = next(folder.parent for folder in folders if folder.name == "sockets")
    secrets = [secret.encode() for secret in (API_KEY, token(), TEXT)]

    def visible():
        walked = [step for folder in (*folders, session) for step in os.walk(folder)]
        files = [Path(root, name) for root, _, names in walked for name in names]
        files += [Path("/proc", str(pid), name) for pid in pids for name in ("cmdline", "environ")]
        files = [file for file in files if is_file(file)]
        showing = [file for file in files if any(secret in content(file) for secret in secrets)]
        places = [*files, *(Path(root) for root, *_ in walked), *folders, *session.parents]
        return showing, [place for place in places if os.access(place, os.W_OK)]

    showing, writable = visible()
    assert any(file.name == "environ" for file in showing), "the owner finds the key"
    assert session in writable
    showing, writable = as_nobody(visible)
    assert showing == []
    assert writable == [Path("/tmp")]  # where the sticky bit protects what others own


def is_file(file):
    with suppress(OSError):
        return stat.S_ISREG(file.lstat().st_mode)
    return False


def content(file):
    with suppress(OSError):
        return file.read_bytes()
    return b""


@root_only
def test_another_user_cannot_signal_its_processes(service):
    pids = list(descendants(service.process.pid))

    def signalled():
        reached = []
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, 0)
                reached.append(pid)
        return reached

    assert as_nobody(signalled) == []
