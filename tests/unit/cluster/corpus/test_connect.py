"""What a job says when the service is there and does not answer."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError, GetTimeoutError, RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.corpus import connect as target
from cluster.corpus.connect import JobModel, why_waiting
from cluster.corpus.errors import JobError, StillLoading, WrongModel
from deployments.config.schema import ModelConfig
from deployments.core.errors import ModelUnavailable
from deployments.core.models.catalog import CATALOG
from deployments.wire.status import ModelState, ModelStatus, ServedModel
from testing.running import free_port
from tests.support.local_server import local_server, local_server_of


@pytest.fixture
def fails(monkeypatch):
    """Sets what asking the service raises."""

    def raises(error: Exception) -> None:
        async def served(app, model, kinds):
            raise error

        monkeypatch.setattr(target, "_application", lambda: "app")
        monkeypatch.setattr(target, "_ask", served)

    return raises


@pytest.mark.parametrize(
    "error", [TimeoutError(), OSError("gone"), RayActorError(), RayServeException("no app")]
)
def test_a_service_that_does_not_answer_now_may_later(fails, error):
    fails(error)
    with pytest.raises(JobError, match=r"does not answer \(.*serve status") as said:
        target.find_model("m")
    assert not isinstance(said.value, WrongModel)


def loading(monkeypatch, looks: int) -> None:
    """Sets how often the model is still loading when the service is asked."""
    config, status = ModelConfig(name="e5-small"), ModelStatus(ModelState.STARTING)
    left = iter(range(looks))

    async def served(app, model, kinds):
        spec = None if next(left, None) is not None else CATALOG["e5-small"]
        return ServedModel(config, spec, None, status)

    monkeypatch.setattr(target, "_application", lambda: "app")
    monkeypatch.setattr(target, "_ask", served)


def test_a_model_that_is_still_loading_is_waited_for(monkeypatch):
    loading(monkeypatch, 3)
    said, slept = [], []
    model = target.wait_for_model("e5-small", (), 900, said.append, lambda: 0.0, slept.append)
    assert model.served.spec is not None
    assert len(slept) == 3
    assert said == ["waiting for the model: e5-small is still loading"]


def test_a_model_that_loads_for_too_long_is_an_error(monkeypatch):
    loading(monkeypatch, 10_000)
    slept = []
    with pytest.raises(JobError, match="e5-small is still loading after 5 s") as late:
        target.wait_for_model("e5-small", (), 5, lambda _: None, lambda: len(slept), slept.append)
    assert not isinstance(late.value, StillLoading)
    assert len(slept) == 5


def answers_in_turn(monkeypatch, *answers) -> None:
    """Sets what `find_model` raises or returns, one after the other; the last one again and again."""
    left = list(answers)

    def find(*_):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(target, "find_model", find)


LOADS, AWAY = StillLoading("e5-small is still loading"), JobError("the service does not answer")


def test_a_service_that_is_away_for_a_while_as_its_model_loads_is_waited_for(monkeypatch):
    model = JobModel("app", served(ModelState.READY))
    answers_in_turn(monkeypatch, LOADS, AWAY, AWAY, LOADS, model)
    said, slept = [], []
    actual = target.wait_for_model("e5-small", (), 900, said.append, lambda: 0.0, slept.append)
    assert actual is model
    assert said == [f"waiting for the model: {error}" for error in (LOADS, AWAY, LOADS)]


@pytest.mark.parametrize(
    ("answers", "looks"),
    [
        ((AWAY, LOADS), 1),  # not seen to load
        ((LOADS, WrongModel("its files are damaged"), LOADS), 2),
        ((LOADS, AWAY), 6),  # until the deadline
    ],
)
def test_other_errors_end_the_wait_for_a_model(monkeypatch, answers, looks):
    answers_in_turn(monkeypatch, *answers)
    slept = []
    with pytest.raises(JobError) as ended:
        target.wait_for_model("e5-small", (), 5, lambda _: None, lambda: len(slept), slept.append)
    assert not isinstance(ended.value, StillLoading)
    assert len(slept) + 1 == looks


@pytest.mark.parametrize("cause", [ValueError("a bug"), TimeoutError("a bug")])
def test_what_fails_within_the_service_is_not_waited_for(fails, cause):
    fails(RayTaskError("served", "trace", cause).as_instanceof_cause())
    with pytest.raises(WrongModel, match=r"failed to say what it serves: \w+Error\('a bug'\)"):
        target.find_model("m")


def test_a_token_that_is_wanted_is_said(fails, monkeypatch):
    error = AuthenticationError("the token is missing")
    fails(error)
    with pytest.raises(WrongModel, match="the token is missing"):
        target.find_model("m")

    def refuses(**_):
        raise error

    monkeypatch.setattr(target.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(target, "local_rays", lambda: [])
    monkeypatch.setattr(target.ray, "init", refuses)
    with pytest.raises(WrongModel, match=r"its token: the token is missing"):
        target.connect(None)


@pytest.mark.parametrize(
    ("error", "address", "mode", "words"),
    [
        (
            "Failed to connect to Ray cluster",
            None,
            None,
            "token, put the token of the user who started it",
        ),
        (
            "Failed to connect to Ray cluster",
            "a:b",
            None,
            "set RAY_AUTH_MODE=token and put the token",
        ),
        ("Failed to connect to Ray cluster", "a:b", "token", "token, put the token of the user"),
        ("Could not find any running Ray instance", None, None, None),
    ],
)
def test_who_is_not_let_in_may_lack_the_token(monkeypatch, error, address, mode, words):
    def refuses(**_):
        raise ConnectionError(error)

    monkeypatch.setattr(target.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(target, "local_rays", lambda: [])
    monkeypatch.setattr(target.ray, "init", refuses)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(JobError) as said:
        target.connect(address, wording=target.IN_COMMAND)
    assert (words or "while this job runs") in str(said.value)
    assert ("token" in str(said.value)) == (words is not None)


def served(state: ModelState, replicas: int = 0, reason: str | None = None) -> ServedModel:
    config = ModelConfig(name="e5-small")
    return ServedModel(config, None, None, ModelStatus(state, replicas, reason))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (served(ModelState.READY, 1), "e5-small, 1 replica, on the Ray at 10.0.0.1:6379"),
        (served(ModelState.READY, 2), "e5-small, 2 replicas, on the Ray at 10.0.0.1:6379"),
        (
            served(ModelState.STARTING, 0, "no node is free"),
            "e5-small, 0 replicas, starting: no node is free, on the Ray at 10.0.0.1:6379",
        ),
    ],
)
def test_a_job_says_what_it_has_found(monkeypatch, model, words):
    context = SimpleNamespace(gcs_address="10.0.0.1:6379")
    monkeypatch.setattr(target.ray, "get_runtime_context", lambda: context)
    assert str(JobModel("app", model)) == words


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (served(ModelState.READY, 1), None),
        (served(ModelState.COLD), "e5-small is cold"),
        (served(ModelState.UNAVAILABLE, 0, "no GPU"), "e5-small is unavailable: no GPU"),
        (ModelUnavailable("e5-small is gone", "model", 1.0), "e5-small is gone"),
        (OSError("gone"), "the service does not answer (OSError('gone'))"),
    ],
)
def test_why_a_job_waits(monkeypatch, now, why):
    async def answer(app, model, kinds):
        if isinstance(now, OSError):
            raise now
        return now

    monkeypatch.setattr(target, "_ask", answer)
    assert why_waiting(JobModel("app", served(ModelState.READY, 1))) == why


def test_a_full_disk_under_rays_session_is_named(small_disk, monkeypatch):
    session = small_disk / "session"
    (session / "sockets").mkdir(parents=True)
    monkeypatch.setattr(target, "raylet_socket", lambda: str(session / "sockets" / "raylet"))
    monkeypatch.setattr(target, "_LEAST_FREE_BYTES", 1_000_000)
    target.check_disk(target.session_folder())
    (small_disk / "filler").write_bytes(bytes(1_000_000))
    with pytest.raises(
        JobError, match=f"the disk of {session}, where Ray keeps its session, is full"
    ):
        target.check_disk(session)


def test_a_session_folder_that_cannot_be_looked_at_is_not_full():
    target.check_disk(Path("/absent/session"))


def test_a_service_that_has_stopped_is_called_that(fails):
    fails(RayServeException("no app"))
    assert why_waiting(JobModel("app", served(ModelState.READY))) == "the service has stopped"


class Rays:
    """Clusters on this machine: whether the service is on each, and the port that it listens on."""

    def __init__(self, **ports: int | None) -> None:
        self.ports = {f"{name}:6379": port for name, port in ports.items()}
        self.joined: str | None = None

    def join(self, address: str, _: target.Wording) -> None:
        if address not in (*self.ports, "auto"):
            raise JobError(f"nothing answers at {address}")
        self.joined = address

    def application(self) -> str:
        if self.ports[self.joined] is None:
            raise JobError("no service")
        return "embedfleet"

    def leave(self) -> None:
        self.joined = None


@pytest.fixture
def on_this_machine(monkeypatch):
    def run(**ports: int | None) -> Rays:
        rays = Rays(**ports)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(target.ray, "is_initialized", lambda: False)
        monkeypatch.setattr(target.ray, "shutdown", rays.leave)
        monkeypatch.setattr(target, "local_rays", lambda: list(rays.ports))
        monkeypatch.setattr(target, "_join", rays.join)
        monkeypatch.setattr(target, "_check_workers", lambda: None)  # tests/clusters has it
        monkeypatch.setattr(target, "_application", rays.application)
        monkeypatch.setattr(target, "http_port", lambda _: rays.ports[rays.joined])
        monkeypatch.setattr(target, "_refuse_silence", lambda *_: None)
        monkeypatch.setattr(target, "_refuse_another_server", lambda *_: None)
        monkeypatch.setattr(target, "rays_with_serve", lambda: [])
        monkeypatch.setattr(target, "ray_that_listens", lambda _: None)
        return rays

    return run


def test_of_several_rays_the_one_of_the_service_is_joined(on_this_machine):
    rays = on_this_machine(a=None, b=8000, c=None)
    target.connect(None)
    assert rays.joined == "b:6379"


def test_of_several_services_the_one_at_the_url_is_joined(on_this_machine):
    rays = on_this_machine(a=8000, b=8001)
    for url in ("http://127.0.0.1:8001", "localhost:8001", "http://localhost:8001/v1"):
        target.connect(None, url)
        assert rays.joined == "b:6379"
    target.connect("a:6379", "http://127.0.0.1:8001")  # an address is an address
    assert rays.joined == "a:6379"


def test_the_environment_names_the_service_where_no_argument_does(on_this_machine, monkeypatch):
    rays = on_this_machine(a=8000, b=8001)
    monkeypatch.setenv("EMBEDFLEET_URL", "http://127.0.0.1:8001")
    target.connect()
    assert rays.joined == "b:6379"
    target.connect(url="http://127.0.0.1:8000")
    assert rays.joined == "a:6379"


def test_a_service_that_a_job_has_started_is_not_looked_for_at_that_url(
    on_this_machine, monkeypatch
):
    rays = on_this_machine(a=8000)
    monkeypatch.setenv("EMBEDFLEET_URL", "http://127.0.0.1:8001")
    target.join(None)
    assert rays.joined == "auto"


def test_the_ray_that_listens_at_the_port_is_joined_and_no_other_is_tried(
    on_this_machine, monkeypatch
):
    rays = on_this_machine(a=8001, b=8001)
    owners = {8001: "b:6379"}
    monkeypatch.setattr(target, "ray_that_listens", owners.get)
    monkeypatch.setattr(target, "http_port", lambda _: pytest.fail("a Ray was asked"))
    target.connect(None, "http://127.0.0.1:8001")
    assert rays.joined == "b:6379"


def test_the_only_ray_with_serve_is_joined_and_no_other_is_tried(on_this_machine, monkeypatch):
    rays = on_this_machine(a=8000, b=8001)
    monkeypatch.setattr(target, "rays_with_serve", lambda: ["b:6379"])
    monkeypatch.setattr(target, "_application", lambda: pytest.fail("a Ray was asked"))
    target.connect(None)
    assert rays.joined == "b:6379"


@pytest.mark.parametrize(
    ("wording", "url", "address"),
    [
        ((), "with url,", 'with address="HOST:PORT"'),
        ((target.IN_COMMAND,), "with --url,", "with --address HOST:PORT"),
    ],
)
def test_of_several_rays_with_serve_the_caller_has_to_choose(
    on_this_machine, monkeypatch, wording, url, address
):
    rays = on_this_machine(a=8000, b=8001)
    monkeypatch.setattr(target, "rays_with_serve", lambda: ["a:6379", "b:6379"])
    with pytest.raises(JobError, match=r"a:6379, b:6379") as several:
        target.connect(None, None, *wording)
    assert url in str(several.value)
    assert address in str(several.value)
    assert rays.joined is None


def test_programs_are_told_of_arguments_and_not_of_options(on_this_machine):
    on_this_machine(a=None, b=None)
    for url in (None, "http://192.0.2.77:8000", "http://127.0.0.1:x", "http://127.0.0.1:8002"):
        with pytest.raises(JobError) as refused:
            target.connect(None, url)
        assert "--" not in str(refused.value)
        with pytest.raises(JobError, match="--"):
            target.connect(None, url, target.IN_COMMAND)


def test_the_only_ray_of_the_machine_is_joined_as_ray_finds_it(on_this_machine):
    rays = on_this_machine(a=None)
    target.connect(None)
    assert rays.joined == "auto"


def test_the_rays_that_were_looked_at_are_named(on_this_machine):
    rays = on_this_machine(a=None, b=8000)
    with pytest.raises(
        JobError, match=r"the service at http://127.0.0.1:8002 is on no Ray .*a:6379, b"
    ):
        target.connect(None, "http://127.0.0.1:8002")
    assert rays.joined is None


@pytest.mark.parametrize(
    ("url", "words"),
    [("http://192.0.2.77:8000", "on another machine"), ("http://127.0.0.1:x", "is not a URL")],
)
def test_a_url_that_names_no_service_of_this_machine(on_this_machine, url, words):
    on_this_machine(a=8000, b=8001)
    with pytest.raises(JobError, match=words):
        target.connect(None, url)


def test_a_url_at_which_nothing_listens_is_refused_before_any_ray_is_tried(monkeypatch):
    monkeypatch.setattr(target.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(target, "local_rays", lambda: pytest.fail("a Ray was looked for"))
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(JobError, match=f"no service answers at {url} "):
        target.connect(None, url)


@pytest.fixture
def unseen(on_this_machine, monkeypatch):
    """One Ray, and a server whose process cannot be seen; what it answers is looked at."""
    refuse = target._refuse_another_server
    rays = on_this_machine(a=None)
    monkeypatch.setattr(target, "_refuse_another_server", refuse)
    return rays


@pytest.mark.parametrize("wording", [target.IN_PYTHON, target.IN_COMMAND])
@pytest.mark.parametrize(
    ("body", "status"),
    [(b"<html>", 200), (b"<html>", 404), (b"", 301), (b'{"object": "list", "data": []}', 200)],
)
def test_another_server_at_the_url_is_named_before_any_ray_is_tried(
    unseen, monkeypatch, body, status, wording
):
    monkeypatch.setattr(target, "_join", lambda *_: pytest.fail("a Ray was tried"))
    with local_server(body, status) as port, pytest.raises(JobError) as refused:
        target.connect(None, f"127.0.0.1:{port}/v1", wording)
    said = str(refused.value)
    assert f"the server at http://127.0.0.1:{port} is not embedfleet: it answers" in said
    assert f"set {wording.url} to the service" in said
    assert ("--" in said) is (wording is target.IN_COMMAND)


LISTING, ROUTES = b'{"data": [], "spaces": []}', b'{"/other": "app"}'
MISSING = b"Path '/v1/models' not found. Ping http://.../-/routes"


@pytest.mark.parametrize(
    ("models", "routes"),
    [
        ((200, LISTING), (404, b"")),
        ((404, MISSING), (200, ROUTES)),  # under another route_prefix
        ((404, MISSING), (200, b"{}")),
        ((404, MISSING), (503, b"Route table is not populated yet.")),  # a proxy that starts
        ((500, b"<html>"), (503, b"No replicas are available yet.")),
        ((503, b"<html>"), (404, b"")),
        ((403, b"<html>"), (404, b"")),  # a proxy with credentials of its own
        ((429, b'{"error": {"message": "over the limit"}}'), (404, b"")),
        ((401, b'{"error": {"message": "send your API key"}}'), (404, b"")),
    ],
)
@pytest.mark.parametrize("path", ["", "/prefix/v1"])
def test_what_may_be_a_service_whose_processes_are_not_seen_is_tried(unseen, models, routes, path):
    with local_server_of({"/v1/models": models, "/-/routes": routes}) as port:
        unseen.ports["a:6379"] = port
        target.connect(None, f"http://127.0.0.1:{port}{path}")
    assert unseen.joined == "a:6379"


def test_what_does_not_speak_http_is_tried(unseen, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = unseen.ports["a:6379"] = server.getsockname()[1]
        monkeypatch.setattr("cluster.service.http._PROBE_TIMEOUT_S", 0.1)
        target.connect(None, f"http://127.0.0.1:{port}")
    assert unseen.joined == "a:6379"


@pytest.fixture
def controller(monkeypatch):
    """Sets what Serve's controller answers, or that it is not there; every call must have a limit."""

    def answers(answer):
        def details(timeout_s):
            assert 0 < timeout_s <= 60
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(target, "application_details", details)
        context = SimpleNamespace(gcs_address="10.0.0.1:6379")
        monkeypatch.setattr(target.ray, "get_runtime_context", lambda: context)

    return answers


def test_the_application_with_a_router_and_encoders_is_the_service(controller):
    other, ours = {"deployments": {"router": {}}}, {"deployments": {"router": {}, "encoder-a": {}}}
    controller({"other": other, "ours": ours})
    assert target._application() == "ours"


@pytest.mark.parametrize("answer", [{}, ValueError("no actor named SERVE_CONTROLLER_ACTOR")])
def test_a_ray_without_the_service_is_called_that(controller, answer):
    controller(answer)
    with pytest.raises(JobError, match=r"Ray runs at 10\.0\.0\.1:6379, but the service does not"):
        target.find_model("m")
    assert why_waiting(JobModel("app", served(ModelState.READY))) == "the service has stopped"


def test_a_controller_that_hangs_ends_the_wait(controller):
    controller(GetTimeoutError("Get timed out"))
    with pytest.raises(JobError, match=r"does not answer \(GetTimeoutError"):
        target.find_model("m")
