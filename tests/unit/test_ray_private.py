"""Ray still has the private names and signatures that `ray_private` uses. Ray itself does not start."""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private import node, ray_constants, worker
from ray._private.authentication import authentication_token_setup as tokens
from ray._private.utils import write_ray_address
from ray.experimental import internal_kv
from ray.serve import context, handle, schema
from ray.serve._private import api, client, controller, logging_utils, replica, router
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve.exceptions import RayServeException

from deployments import ray_private


@pytest.mark.parametrize("version", ["2.60.0", "2.60.3"])
def test_the_version_this_was_written_for_is_accepted(version):
    ray_private.check_ray_version(version)


@pytest.mark.parametrize("version", ["2.59.1", "2.61.0", "3.60.0", "2.6.0"])
def test_another_minor_version_is_refused_and_the_module_is_named(version):
    with pytest.raises(ImportError, match=r"ray_private\.py") as refused:
        ray_private.check_ray_version(version)
    assert version in str(refused.value)


def test_a_handle_keeps_the_replicas_where_they_are_counted():
    assert "self._router:" in inspect.getsource(handle._DeploymentHandleBase.__init__)
    for kind in (router.SingletonThreadRouter, router.CurrentLoopRouter):
        assert "self._asyncio_router = " in inspect.getsource(kind.__init__)
    assert "self._request_router:" in inspect.getsource(router.AsyncioRouter.__init__)
    assert isinstance(RequestRouter.curr_replicas, property)


def test_the_replicas_of_a_handle_are_named():
    requests = SimpleNamespace(curr_replicas={replica_id("one"): 1, replica_id("two"): 2})
    inner = SimpleNamespace(_asyncio_router=SimpleNamespace(_request_router=requests))
    assert ray_private.known_replicas(SimpleNamespace(_router=inner)) == {
        replica_id("one").to_full_id_str(),
        replica_id("two").to_full_id_str(),
    }
    assert ray_private.known_replicas(SimpleNamespace(_router=None)) == frozenset()


def replica_id(name):
    return ReplicaID(name, DeploymentID(name="encoder", app_name="app"))


def test_labels_are_compared_as_ray_compares_them():
    labels = {"zone": "a", "disk": "ssd"}
    assert ray_private.labels_match(labels, {"zone": "a"})
    assert ray_private.labels_match(labels, {"zone": "in(a,b)", "disk": "!hdd"})
    assert not ray_private.labels_match(labels, {"zone": "b"})


def test_the_controller_describes_and_deletes_applications():
    kind = controller.ServeController
    inspect.signature(kind.get_serve_instance_details).bind(None)
    inspect.signature(kind.delete_apps).bind(None, ["app"])
    assert {"applications"} <= schema.ServeInstanceDetails.model_fields.keys()
    assert {"deployments"} <= schema.ApplicationDetails.model_fields.keys()
    assert {"message"} <= schema.DeploymentDetails.model_fields.keys()


@pytest.mark.parametrize(("running", "is_kept"), [("a", True), ("b", False), (None, False)])
def test_a_controller_that_was_shut_down_is_forgotten(monkeypatch, running, is_kept):
    assert "_controller" in inspect.getsource(client.ServeControllerClient.__init__)
    inspect.signature(context._set_global_client).bind(None)

    def get_actor(name, namespace):
        if running is None:
            raise ValueError("no such actor")
        return controller_of(running)

    known = SimpleNamespace(_controller=controller_of("a"))
    monkeypatch.setattr(ray, "get_actor", get_actor)
    monkeypatch.setattr(context, "_global_client", known)
    assert ray_private.serve_instance() == running
    ray_private.forget_ended_serve()
    assert context._global_client is (known if is_kept else None)


def controller_of(instance):
    return SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: instance))


def test_a_process_without_ray_has_no_processes_of_ray():
    assert worker._global_node is None
    assert ray_private.own_ray() == {}


@pytest.mark.parametrize("is_head", [True, False])
def test_only_the_process_of_the_head_node_has_started_ray(monkeypatch, is_head):
    assert callable(node.Node.is_head)
    inspect.signature(node.Node.kill_all_processes).bind(
        None, check_alive=False, allow_graceful=False
    )
    names = (ray_constants.PROCESS_TYPE_RAYLET, ray_constants.PROCESS_TYPE_GCS_SERVER)
    processes = {name: [SimpleNamespace(process=f"{name}'s")] for name in names}
    started = SimpleNamespace(is_head=lambda: is_head, all_processes=processes)
    monkeypatch.setattr(worker, "_global_node", started)
    expected = {"raylet": "raylet's", "gcs_server": "gcs_server's"} if is_head else {}
    assert ray_private.own_ray() == expected


def test_rays_token_is_written_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "generate_and_save_token", tokens.generate_and_save_token)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    ray_private.keep_token_private()
    tokens.generate_and_save_token()
    file = tmp_path / ".ray" / "auth_token"
    assert len(file.read_text()) == 64
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_token_that_others_can_read_becomes_private(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "generate_and_save_token", tokens.generate_and_save_token)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    tokens.generate_and_save_token()
    file = tmp_path / ".ray" / "auth_token"
    file.chmod(0o644)
    ray_private.keep_token_private()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_ray_that_was_started_by_hand_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_private.started_by_hand() is None
    (tmp_path / "ray").mkdir()
    write_ray_address("10.0.0.1:6379")
    assert ray_private.started_by_hand() == "10.0.0.1:6379"


@pytest.fixture
def serve_starts(monkeypatch):
    """Lets Ray's own `serve_start` run without a Ray; returns what it does, in order."""
    done = []
    real = inspect.signature(api._create_controller_and_proxy_refs)

    def create(*args, **options):
        done.append(("create", real.bind(*args, **options).arguments))
        return "controller", ["proxy"]

    def deploy(schema, _blocking):
        done.append(("deploy", schema))

    def none_runs():
        raise RayServeException

    kind = client.ServeControllerClient
    inspect.signature(kind.deploy_apps).bind(None, "schema", _blocking=False)
    monkeypatch.setattr(api, "_create_controller_and_proxy_refs", create)
    monkeypatch.setattr(api, "_check_cached_client_alive", lambda: (None, None))
    monkeypatch.setattr(api, "_get_global_client", none_runs)
    monkeypatch.setattr(api, "_set_global_client", lambda client: None)

    def delete(names, blocking):
        done.append(("delete", names))

    inspect.signature(kind.delete_apps).bind(None, ["embedfleet"], blocking=False)
    deploys = SimpleNamespace(deploy_apps=deploy, delete_apps=delete)
    monkeypatch.setattr(api, "ServeControllerClient", lambda _: deploys)
    monkeypatch.setattr(ray, "get", lambda refs, timeout: done.append(("wait", refs, timeout)))
    return done


CONFIG = {
    "proxy_location": "HeadOnly",
    "http_options": {"host": "127.0.0.1", "port": 8123},
    "applications": [{"name": "embedfleet", "import_path": "deployments.app:build"}],
}


def test_a_config_is_deployed_while_the_proxies_start(serve_starts):
    ray_private.start_serve(CONFIG, 300)
    (create, options), (deploy, schema_deployed), wait = serve_starts
    assert (create, deploy, wait) == ("create", "deploy", ("wait", ["proxy"], 300))
    assert options["http_options"]["port"] == 8123
    assert options["proxy_location"] == "HeadOnly"
    assert [app.name for app in schema_deployed.applications] == ["embedfleet"]
    assert api._create_controller_and_proxy_refs.__name__ == "create"  # as it was


def test_proxies_that_do_not_start_are_waited_for_no_longer(serve_starts, monkeypatch):
    def never(refs, timeout):
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(ray, "get", never)
    with pytest.raises(TimeoutError, match="300 s"):
        ray_private.start_serve(CONFIG, 300)
    assert serve_starts[-1] == ("delete", ["embedfleet"])  # Ray may run on


def test_a_request_has_serves_id():
    context._serve_request_context.set(context._RequestContext(request_id="mine-42"))
    assert ray_private.request_id() == "mine-42"


@pytest.mark.parametrize("is_on", [True, False])
def test_the_access_log_is_replaced_and_known_to_be_on(tmp_path, monkeypatch, is_on):
    logger = logging.Logger("ray.serve")
    monkeypatch.setattr(logging, "getLogger", lambda name=None: logger)
    monkeypatch.setattr(logging_utils, "logger", logger, raising=False)
    logging_utils.configure_component_logger(
        component_name="router",
        component_id="1",
        logging_config=schema.LoggingConfig(logs_dir=str(tmp_path), enable_access_log=is_on),
        max_bytes=10_000,
        backup_count=1,
    )
    monkeypatch.setattr(replica, "logger", logger)
    made = []
    logger.addFilter(lambda record: made.append(record) or True)
    assert ray_private.replace_access_log() == is_on
    replica.logger.info("GET / 200", extra={"serve_access_log": True})
    replica.logger.warning("Serve's own", extra={"route": "/"})
    logger.info("ours")
    (file,) = tmp_path.iterdir()
    assert [record.getMessage() for record in made] == ["Serve's own", "ours"]
    assert made[0].filename == Path(__file__).name
    assert "Serve's own" in file.read_text()
    assert "GET /" not in file.read_text()


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("put", ("key", "value"), {"overwrite": True}),
        ("get", ("key",), {}),
        ("del", ("key",), {}),
        ("list", ("prefix",), {}),
    ],
)
def test_the_key_value_store_takes_these_arguments(name, arguments, options):
    function = getattr(internal_kv, f"_internal_kv_{name}")
    inspect.signature(function).bind(*arguments, **options, namespace="embedfleet")


def test_the_rays_of_this_machine_are_listed(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    addresses = ray_private.local_rays()
    assert all(re.fullmatch(r"\S+:\d+", address) for address in addresses)
    assert addresses == sorted(addresses)
