"""Watches the replicas of every model: ready, starting, cold, or unavailable and why.

The view is at most a few seconds old. Serve's controller tells the handles of replicas, and what it
waits for; a replica knows whether its model has loaded; the cluster knows whether a replica could ever
start.

What a replica of a model asks of a node, and whether any node of the cluster has it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import ray
from ray import serve
from ray._raylet import node_labels_match_selector  # type: ignore[attr-defined]
from ray.serve.handle import DeploymentHandle

from deployments.config.schema import ModelConfig
from deployments.ray_private import known_replicas
from deployments.wire.status import ModelState, ModelStatus, ReplicaState, ReplicaStatus

log = logging.getLogger("ray.serve")
_EVERY_S = 1.0
_MESSAGES_EVERY_S = 5.0
_STATUS_TIMEOUT_S = 3.0


class Fleet:
    """The state of each model, refreshed every second in the background."""

    def __init__(
        self,
        app_name: str,
        models: Mapping[str, tuple[ModelConfig, DeploymentHandle]],
        met: Callable[[str], Awaitable[None]],
    ) -> None:
        """``met`` is told, at each look, of every model of which a replica is ready."""
        self._app_name = app_name
        self._met = met
        self._models = dict(models)
        self._statuses = {
            name: ModelStatus(ModelState.STARTING, reason="not seen yet") for name in models
        }
        self._measured: dict[str, ReplicaStatus] = {}
        self._messages: Mapping[str, str] = {}
        self._messages_at = -math.inf
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch; call it in the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def status(self, model: str) -> ModelStatus:
        """Returns the latest view of one model."""
        return self._statuses[model]

    def measured(self, model: str) -> ReplicaStatus | None:
        """Returns what a ready replica said last, also where none runs now."""
        return self._measured.get(model)

    async def _watch(self) -> None:
        while True:
            try:
                await self._refresh()
            except Exception:
                log.exception("the state of the models could not be read; the old view stays")
            await asyncio.sleep(_EVERY_S)

    async def _refresh(self) -> None:
        if time.monotonic() - self._messages_at > _MESSAGES_EVERY_S:
            self._messages_at = time.monotonic()  # not in each round while the controller is away
            self._messages = await asyncio.to_thread(self._controllers_messages)
        nodes = await asyncio.to_thread(ray.nodes)
        await asyncio.gather(*(self._look_at(name, nodes) for name in self._models))

    async def _look_at(self, name: str, nodes: list[dict[str, object]]) -> None:
        config, handle = self._models[name]
        ask = handle.status
        running = known_replicas(ask)
        # a call that had to queue would wake a cold model
        replica = await self._ask_replica(ask) if running else None
        message = self._messages.get(config.deployment_name, "not deployed")
        if replica is not None and replica.state is ReplicaState.READY:
            self._measured[name] = replica
        self._statuses[name] = judge(config, running, message, replica, nodes)
        if self._statuses[name].state is ModelState.READY:
            await self._met(name)

    def _controllers_messages(self) -> dict[str, str]:
        app = serve.status().applications.get(self._app_name)
        return {name: d.message for name, d in app.deployments.items()} if app else {}

    async def _ask_replica(self, ask: DeploymentHandle) -> ReplicaStatus | None:
        response = ask.remote()
        try:
            async with asyncio.timeout(_STATUS_TIMEOUT_S):
                replica: ReplicaStatus = await response
                return replica
        except Exception as error:  # a dying or very busy replica: the next look will tell
            log.debug("a replica does not answer: %s", error)
            response.cancel()
            return None


def judge(
    config: ModelConfig,
    running: int,
    message: str,
    replica: ReplicaStatus | None,
    nodes: list[dict[str, object]],
) -> ModelStatus:
    """Returns a model's state from what Serve, one of its replicas and the cluster say."""
    if running:
        if replica is None:
            return ModelStatus(ModelState.READY, running)
        state = {
            ReplicaState.READY: ModelState.READY,
            ReplicaState.LOADING: ModelState.STARTING,
            ReplicaState.UNAVAILABLE: ModelState.UNAVAILABLE,
        }[replica.state]
        reason = replica.reason or message or None  # such as an update that waits for a spare GPU
        return ModelStatus(state, running, reason, replica)
    if missing := missing_resources(config, nodes):
        if not config.can_be_cold:  # the controller asks the cluster for its node in any case
            return ModelStatus(ModelState.UNAVAILABLE, reason=missing)
        reason = f"{missing}; a call for it has an autoscaler add one, where there is one"
        return ModelStatus(ModelState.UNAVAILABLE, reason=reason, may_come=True)
    if config.can_be_cold:
        return ModelStatus(ModelState.COLD, reason="no replica runs; a request starts one")
    return ModelStatus(ModelState.STARTING, reason=message or "its first replica is starting")


def replica_resources(config: ModelConfig) -> dict[str, float]:
    """Returns Ray's resources of one replica, by Ray's names."""
    wanted = {"CPU": config.num_cpus, "GPU": config.num_gpus, **config.resources}
    if config.accelerator_type:
        wanted[f"accelerator_type:{config.accelerator_type}"] = 0.001
    return {name: amount for name, amount in wanted.items() if amount > 0}


def _matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return not selector or bool(node_labels_match_selector(dict(labels), dict(selector)))


def missing_resources(config: ModelConfig, nodes: Iterable[Mapping[str, Any]]) -> str | None:
    """Returns why no node could ever hold a replica, or None if one could.

    ``nodes`` is what `ray.nodes()` gives. Nodes that an autoscaler may yet add are not known here.
    """
    wanted = replica_resources(config)
    labels = config.label_selector
    alive = [n["Resources"] for n in nodes if n["Alive"] and _matches(n.get("Labels", {}), labels)]
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in alive):
        return None
    where = [f"the labels {labels}"] if labels else []
    asked = ", ".join([*(f"{amount:g} {name}" for name, amount in wanted.items()), *where])
    if not alive and labels:
        return f"a replica needs {asked}; no node of the cluster has these labels"
    most = {name: max((node.get(name, 0) for node in alive), default=0) for name in wanted}
    lacking = [
        f"more than {most[name]:g} {name}" if most[name] else name
        for name, amount in wanted.items()
        if most[name] < amount
    ]
    what = " and ".join(lacking) or "all of that at once"
    return f"a replica needs {asked}; no node of the cluster has {what}"
