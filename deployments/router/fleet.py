"""The state of every model's replicas: ready, starting, cold, or unavailable and why.

The view is at most a few seconds old. It combines three sources: Serve's controller pushes the running
replicas to the handles and says what it waits for; the replicas report, over their connections,
whether their model is loaded; and the cluster's nodes show whether a replica could start at all. If there
is no connection to any replica, one of them is asked by handle.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.serve.handle import DeploymentHandle

from deployments.config.schema import ModelConfig
from deployments.core.lane import Lane
from deployments.ray_private import application_details, known_replicas, labels_match
from deployments.wire.status import ModelState, ModelStatus, ReplicaState, ReplicaStatus

log = logging.getLogger("ray.serve")
_EVERY_S = 1.0
_DESCRIBED_EVERY_S = 5.0
_STATUS_TIMEOUT_S = 3.0
_CONTROLLER_TIMEOUT_S = 5.0
_MODEL_STATES = {
    ReplicaState.READY: ModelState.READY,
    ReplicaState.LOADING: ModelState.STARTING,
    ReplicaState.UNAVAILABLE: ModelState.UNAVAILABLE,
}


class Fleet:
    """The state of each model, refreshed every second in the background."""

    def __init__(
        self,
        app_name: str,
        models: Mapping[str, tuple[ModelConfig, DeploymentHandle]],
        statuses: Callable[[str], Sequence[ReplicaStatus]],
        on_ready: Callable[[str], Awaitable[None]],
    ) -> None:
        """``statuses`` returns what a model's replicas say, by the model's name. ``on_ready`` is called
        at each refresh with the name of every model that is ready.
        """
        self._app_name = app_name
        self._statuses_of = statuses
        self._on_ready = on_ready
        self._models = dict(models)
        self._statuses = {
            name: ModelStatus(ModelState.STARTING, reason="its state is not known yet")
            for name in models
        }
        self._measured: dict[str, ReplicaStatus] = {}
        # as Serve's controller describes them
        self._deployments: Mapping[str, Mapping[str, Any]] = {}
        self._described_at = -math.inf
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to watch. Call it in the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def status(self, model: str) -> ModelStatus:
        """Returns the latest state of one model."""
        return self._statuses[model]

    def measured(self, model: str) -> ReplicaStatus | None:
        """Returns what a ready replica of this model said last, even if none runs now."""
        return self._measured.get(model)

    def wanted(self, model: str) -> int:
        """Returns how many replicas Serve's controller wants this model to have."""
        name = self._models[model][0].deployment_name
        return int(self._deployments.get(name, {}).get("target_num_replicas", 0))

    async def _watch(self) -> None:
        while True:
            try:
                await self._refresh()
            except Exception:
                log.exception("the state of the models could not be read; the last one stays")
            await asyncio.sleep(_EVERY_S)

    async def _refresh(self) -> None:
        if time.monotonic() - self._described_at > _DESCRIBED_EVERY_S:
            self._described_at = time.monotonic()  # first: no retry each second if the read fails
            self._deployments = await asyncio.to_thread(self._described_deployments)
        nodes = await asyncio.to_thread(ray.nodes)
        await asyncio.gather(*(self._refresh_model(name, nodes) for name in self._models))

    async def _refresh_model(self, name: str, nodes: list[dict[str, object]]) -> None:
        config, handle = self._models[name]
        status_method = handle.status
        running = len(known_replicas(status_method))
        statuses = self._statuses_of(name)
        # without a running replica, the call would be queued and wake a cold model
        if not statuses and running:
            statuses = await self._replica_status(status_method)
        replica = combined(statuses, running)
        deployment = self._deployments.get(config.deployment_name, {})
        message = deployment.get("message", "not deployed")
        if replica is not None and replica.state is ReplicaState.READY:
            self._measured[name] = replica
            if self._statuses[name].state is ModelState.STARTING:
                # the message is of its start, which is over
                message, self._described_at = "", -math.inf
        self._statuses[name] = model_status(config, running, message, replica, nodes)
        if self._statuses[name].state is ModelState.READY:
            await self._on_ready(name)

    def _described_deployments(self) -> Mapping[str, Mapping[str, Any]]:
        app = application_details(_CONTROLLER_TIMEOUT_S).get(self._app_name)
        return app["deployments"] if app else {}

    async def _replica_status(self, status_method: DeploymentHandle) -> Sequence[ReplicaStatus]:
        """Returns what one replica says by handle, if it does."""
        response = status_method.remote()
        try:
            async with asyncio.timeout(_STATUS_TIMEOUT_S):
                return [await response]
        except Exception as error:  # a dying or very busy replica: the next refresh will show
            log.debug("a replica does not answer: %s", error)
            response.cancel()
            return []


def combined(statuses: Sequence[ReplicaStatus], running: int) -> ReplicaStatus | None:
    """Returns what stands for a model's replicas: a ready one's status if there is one, with the tokens
    that wait at all of them, and the mean of their speeds. None if none has said anything.

    If only some of the ``running`` replicas have said something, the others count like these.
    """
    if not statuses:
        return None
    best = min(statuses, key=lambda status: list(_MODEL_STATES).index(status.state))
    share = max(1.0, running / len(statuses))
    waiting = {lane: int(share * sum(s.waiting.get(lane, 0) for s in statuses)) for lane in Lane}
    speeds = [status.tokens_per_s for status in statuses if status.tokens_per_s]
    speed = int(sum(speeds) / len(speeds)) if speeds else None
    return replace(best, waiting=waiting if best.waiting else {}, tokens_per_s=speed)


def model_status(
    config: ModelConfig,
    running: int,
    message: str,
    replica: ReplicaStatus | None,
    nodes: list[dict[str, object]],
) -> ModelStatus:
    """Returns a model's state.

    ``running`` is the number of replicas that Serve has, ``message`` what its controller says,
    ``replica`` what one of them says (None if it did not answer), and ``nodes`` what `ray.nodes()`
    returns.
    """
    if running:
        if replica is None:
            return ModelStatus(ModelState.READY, running)
        reason = replica.reason or message or None  # such as an update that waits for a spare GPU
        return ModelStatus(_MODEL_STATES[replica.state], running, reason, replica)
    if missing := missing_resources(config, nodes):
        if not config.can_be_cold:  # the controller asks the cluster for a node in any case
            return ModelStatus(ModelState.UNAVAILABLE, reason=missing)
        reason = f"{missing}; a request for it makes the cluster's autoscaler, if any, add one"
        return ModelStatus(ModelState.UNAVAILABLE, reason=reason, may_come=True)
    if config.can_be_cold:
        return ModelStatus(ModelState.COLD, reason="no replica runs; a request starts one")
    return ModelStatus(ModelState.STARTING, reason=message or "its first replica is starting")


def missing_resources(config: ModelConfig, nodes: Iterable[Mapping[str, Any]]) -> str | None:
    """Returns why no node could hold a replica, or None if one could.

    ``nodes`` is what `ray.nodes()` returns; nodes that an autoscaler may still add are not in it.
    """
    wanted = replica_resources(config)
    labels = config.label_selector
    alive = [n["Resources"] for n in nodes if n["Alive"] and _matches(n.get("Labels", {}), labels)]
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in alive):
        return None
    needs = [f"{amount:g} {name}" for name, amount in wanted.items()]
    if labels:
        needs.append(f"the labels {labels}")
    if not alive and labels:
        return f"a replica needs {', '.join(needs)}; no node of the cluster has these labels"
    return (
        f"a replica needs {', '.join(needs)}; no node of the cluster has {_lacking(wanted, alive)}"
    )


def _lacking(wanted: Mapping[str, float], nodes: list[Mapping[str, float]]) -> str:
    most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
    lacking = [
        f"more than {most[name]:g} {name}" if most[name] else name
        for name, amount in wanted.items()
        if most[name] < amount
    ]
    return " and ".join(lacking) or "all of that at once"


def replica_resources(config: ModelConfig) -> dict[str, float]:
    """Returns the resources of one replica, by Ray's names."""
    wanted = {"CPU": config.num_cpus, "GPU": config.num_gpus, **config.resources}
    if config.accelerator_type:
        wanted[f"accelerator_type:{config.accelerator_type}"] = 0.001
    return {name: amount for name, amount in wanted.items() if amount > 0}


def _matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return not selector or labels_match(labels, selector)
