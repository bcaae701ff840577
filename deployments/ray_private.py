"""Every use of Ray's private interfaces, one function each.

Ray may change these without notice. What is here was read in the source of Ray 2.60; no other module of
`deployments` or `cluster` uses a private name of Ray. To move to another version of Ray, read the source
behind each function, run tests/unit/test_ray_private.py, then change `WRITTEN_FOR`.

Ray is imported inside the functions: `embedfleet env` needs one of them and should not wait for Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

WRITTEN_FOR = "2.60"


def check_ray_version(installed: str) -> None:
    """Raises ImportError if ``installed`` is of another minor version than this module was written for.

    An error rather than a warning: the functions below would fail later and less clearly, or return
    wrong numbers.
    """
    if installed.split(".")[:2] != WRITTEN_FOR.split("."):
        raise ImportError(
            f"Ray {installed} is installed, but deployments/ray_private.py uses private interfaces of "
            f"Ray {WRITTEN_FOR}. Install ray>={WRITTEN_FOR},<2.61, or adapt that module."
        )


check_ray_version(version("ray"))


def known_replicas(handle: DeploymentHandle) -> int:
    """Returns how many replicas the handle can call; 0 if none runs, or none is known yet.

    The controller pushes this list to the handle, so reading it costs nothing. `serve.status` takes some
    15 ms of this process, and more with each deployment (benchmarks/log/2026-11.md). The public
    `running_replicas_populated` says only whether the list has arrived.
    """
    router = handle._router
    requests = router._asyncio_router._request_router if router else None
    return len(requests.curr_replicas) if requests else 0


def labels_match(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Returns whether a node with these labels satisfies Ray's `label_selector`."""
    from ray._raylet import node_labels_match_selector  # type: ignore[attr-defined]

    return bool(node_labels_match_selector(dict(labels), dict(selector)))


def serve_client() -> Any:
    """Returns this process's client of the Serve controller. Raises if no controller runs."""
    from ray.serve.context import _get_global_client

    return _get_global_client()


def started_ray() -> bool:
    """Returns whether this process started Ray itself, rather than joining a cluster that runs."""
    from ray._private import worker

    node = worker._global_node
    return node is not None and node.is_head()


class KeyValueStore:
    """Ray's key-value store in the GCS (and in Redis, if the cluster has one), within one namespace.

    It outlives each process but the head. Each method blocks until the store has answered.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def put(self, key: str, value: str) -> None:
        """Writes a value, over the previous one if there is one."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(key, value, overwrite=True, namespace=self._namespace)

    def get(self, key: str) -> bytes | None:
        """Returns a value; None if the key is not there."""
        from ray.experimental import internal_kv

        value: bytes | None = internal_kv._internal_kv_get(key, namespace=self._namespace)
        return value

    def delete(self, key: str) -> None:
        """Removes a key, if it is there."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(key, namespace=self._namespace)

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys that begin with ``prefix``."""
        from ray.experimental import internal_kv

        keys = internal_kv._internal_kv_list(prefix, namespace=self._namespace)
        return [key.decode() for key in keys]


def haproxy_connections_per_router(connections: int) -> dict[str, str]:
    """Returns the environment that limits how many connections a HAProxy opens to one router.

    A router's loop accepts one connection in each of its turns (libuv). In a storm of new connections
    the kernel drops those that wait, and retries them after longer and longer pauses. HAProxy's own queue
    loses nothing, as long as all HAProxies together open fewer than uvicorn's backlog of 2,048.

    Ray has no setting for a server's `maxconn`. But it writes this variable unchecked after the word
    `fastinter` of the health check, so HAProxy reads what follows the interval as further settings of the
    server. The interval is 5 s: after Ray's own 250 ms a busy router would be taken for a dead one.
    """
    return {"RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER": f"5s maxconn {connections}"}
