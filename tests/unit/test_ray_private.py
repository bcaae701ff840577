"""Ray still has the private names and signatures that `ray_private` uses. Ray itself does not start."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
from ray._private import node, worker
from ray.experimental import internal_kv
from ray.serve import context, handle
from ray.serve._private import client, router
from ray.serve._private.haproxy import BackendConfig, HAProxyConfig
from ray.serve._private.request_router.request_router import RequestRouter

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


def test_the_replicas_of_a_handle_are_counted():
    requests = SimpleNamespace(curr_replicas={"one": 1, "two": 2})
    inner = SimpleNamespace(_asyncio_router=SimpleNamespace(_request_router=requests))
    assert ray_private.known_replicas(SimpleNamespace(_router=inner)) == 2
    assert ray_private.known_replicas(SimpleNamespace(_router=None)) == 0


def test_labels_are_compared_as_ray_compares_them():
    labels = {"zone": "a", "disk": "ssd"}
    assert ray_private.labels_match(labels, {"zone": "a"})
    assert ray_private.labels_match(labels, {"zone": "in(a,b)", "disk": "!hdd"})
    assert not ray_private.labels_match(labels, {"zone": "b"})


def test_the_controllers_client_can_delete_apps_and_close_handles():
    assert callable(context._get_global_client)
    kind = client.ServeControllerClient
    inspect.signature(kind.delete_apps).bind(None, ["app"])
    inspect.signature(kind.shutdown_cached_handles_async).bind(None)


def test_a_process_without_ray_has_not_started_it():
    assert worker._global_node is None
    assert not ray_private.started_ray()


@pytest.mark.parametrize("is_head", [True, False])
def test_only_the_process_of_the_head_node_has_started_ray(monkeypatch, is_head):
    assert callable(node.Node.is_head)
    monkeypatch.setattr(worker, "_global_node", SimpleNamespace(is_head=lambda: is_head))
    assert ray_private.started_ray() == is_head


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


def test_haproxy_reads_the_connections_as_a_setting_of_its_servers():
    """Ray writes the variable's value unchecked into the line for HAProxy's servers."""
    [(name, value)] = ray_private.haproxy_connections_per_router(320).items()
    assert f'"{name}"' in inspect.getsource(sys.modules["ray.serve._private.constants"])
    config = HAProxyConfig(health_check_fastinter=value)
    backend = BackendConfig(name="routers", path_prefix="/", servers=[], app_name="embedfleet")
    line = backend.build_health_check_config(config)["default_server_directive"]
    words = line.split()
    assert words[words.index("fastinter") + 1] == "5s"
    assert words[words.index("maxconn") + 1] == "320"


def test_the_environment_of_haproxy_is_known_without_ray():
    """`embedfleet env` takes it and should not wait seconds for Ray's import."""
    program = (
        "import sys; from deployments.ray_private import haproxy_connections_per_router as limit; "
        "limit(1); assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
