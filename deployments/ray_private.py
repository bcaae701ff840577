"""The replicas that a Serve handle knows, as the controller pushes them to it."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle


def known_replicas(handle: DeploymentHandle) -> int:
    """Returns how many replicas calls go to; 0 where none runs, or none is known yet.

    It costs nothing. `serve.status` takes some 15 ms of this process and more with each deployment
    (benchmarks/log/2026-11.md).
    """
    router = handle._router  # Serve has no public way to ask
    requests = router._asyncio_router._request_router if router else None
    return len(requests.curr_replicas) if requests else 0
