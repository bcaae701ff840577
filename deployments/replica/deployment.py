"""The deployment of one model: a replica holds the model's weights and turns token ids into vectors.

If its model cannot be loaded, a replica does not crash: it answers each call with the reason and keeps
trying. There are three exceptions. If another replica has loaded the model (as after an update to weights
that do not exist), this one does not start to take calls. If the GPU is lost, the process ends. If CUDA
did not start, the replica reports itself unhealthy, since only a new process can use the GPU.

Serve imports this file in every process, so it must not import torch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.config.schema import Limits, ModelConfig
from deployments.core.background_loader import BackgroundLoader
from deployments.core.batch import Encoded, Ids, TokenBatch
from deployments.core.engine.warmup import sample
from deployments.core.errors import EmbedfleetError, ModelUnavailable
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.models.spec import ModelSpec
from deployments.core.models.tokenizer import out_of_vocabulary
from deployments.replica.autoscaling import report
from deployments.replica.connection_server import ConnectionServer
from deployments.wire import registry, trials
from deployments.wire.calls import OtherVersion, Terms
from deployments.wire.frames import CallFrame
from deployments.wire.status import ReplicaState, ReplicaStatus

if TYPE_CHECKING:
    from deployments.core.batching.batcher import Batcher
    from deployments.replica.loaded_model import LoadedModel

log = logging.getLogger("ray.serve")
_IDLE_BEFORE_PROBE_S = 60.0
_PROBE_TIMEOUT_S = 20.0
_PASSES_BEFORE_WEDGED = 20.0
_PUBLISH_AGAIN_S = 1.0
_SIBLINGS_EVERY_S = 5.0
_SIBLINGS_TIMEOUT_S = 3.0
_EXPLAIN_S = 60.0  # how long callers can read why a replica needs a new process


class Encoder:
    """One replica of one model. It knows token ids, lanes and vectors, but no texts and no HTTP."""

    wedged_after_s = 20.0
    _connections: ConnectionServer | None = None
    _replica = ""

    def __init__(self, config: ModelConfig, limits: Limits) -> None:
        """Returns once the model is loaded, or cannot be and no other replica has it.

        As soon as this returns, Serve sends calls here, and in an update stops an old replica.
        """
        self._created = time.monotonic()
        self._config = config
        self._name = config.name
        self._answer_s = limits.request_timeout_s
        self._arrived = dict.fromkeys(Lane, 0)
        self._siblings = Siblings()
        self._model = BackgroundLoader(lambda: self.load(config, limits), config.name)
        while not self._model.wait(timeout_s=30.0):
            log.info("%s is still loading", config.name)
        if self._model.value is None:
            with ThreadPoolExecutor(1) as executor:  # Serve's event loop runs in this thread
                executor.submit(asyncio.run, self._wait_for_siblings()).result()
        self._start_s = time.monotonic() - self._created  # includes the imports of loading
        self._listening = self._listen_soon()

    async def _wait_for_siblings(self) -> None:
        """Waits while another replica has the model and this one does not."""
        siblings = Siblings()  # its handle belongs to this event loop
        while self._model.value is None and await siblings.any_ready():
            await asyncio.sleep(_SIBLINGS_EVERY_S)

    def load(self, config: ModelConfig, limits: Limits) -> LoadedModel:
        """Returns the model, ready to encode. Blocks. Raises what `load_model` raises."""
        from deployments.replica.loading import load_model

        return load_model(config, limits)

    def _listen_soon(self) -> asyncio.Task[None] | None:
        """Starts to listen for connections, if this is a replica of Serve."""
        try:
            self._replica = serve.get_replica_context().replica_id.to_full_id_str()
        except RayServeException:
            return None
        return asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        """Listens, and tells clients where; until that succeeds, they call by handle."""
        server = ConnectionServer(self)
        while True:
            try:
                address = await server.listen(ray.util.get_node_ip_address())
                self._connections = server
                await asyncio.to_thread(registry.publish, self._replica, address)
                return
            except Exception as error:  # such as the head of the cluster being away
                log.warning("%s: clients cannot be told where to call: %r", self._name, error)
                await asyncio.sleep(_PUBLISH_AGAIN_S)

    async def answer(self, call: CallFrame) -> Encoded | OtherVersion | EmbedfleetError:
        """As `encode`, for a call that came over a connection."""
        batch = call.batch
        return await self.encode(
            batch.ids,
            batch.lengths,
            call.lane.value,
            call.timeout_s,
            call.terms,
            prompts=batch.prompts,
        )

    async def encode(  # noqa: PLR0913
        self,
        ids: Ids,
        lengths: Ids,
        lane: str,
        timeout_s: float,
        terms: Terms,
        *,
        prompts: Ids | None = None,
    ) -> Encoded | OtherVersion | EmbedfleetError:
        """Returns the vectors of a call's texts, or the error that answers it.

        An EmbedfleetError is returned, not raised: it is an ordinary answer and no failure of the
        replica. A call made for another space gets OtherVersion. If the call is cancelled, its texts
        that have not been computed yet are dropped.
        """
        try:
            model = self._model.get()
            if terms.space != (own_space := space_id(model.spec)):
                return OtherVersion(self._pinned(model.spec), own_space)
            batch = TokenBatch(ids, lengths, prompts)
            if model.spec.needs_prompts and prompts is None:
                raise ModelUnavailable(
                    f"{self._name} needs its texts' prompts, which this client does not send: it runs an "
                    "older version of the code",
                    "model",
                )
            refused = out_of_vocabulary(batch, model.engine.vocabulary)
            if not refused:
                return await self._compute(model, batch, lane, timeout_s, terms)
            if terms.trial or len(refused) == len(batch):
                return next(iter(refused.values()))
            rows = [row for row in range(len(batch)) if row not in refused]
            encoded = await self._compute(model, batch.select(rows), lane, timeout_s, terms)
            return encoded.among(rows, len(batch), refused)
        except EmbedfleetError as error:
            return error

    async def _compute(
        self,
        model: LoadedModel,
        batch: TokenBatch,
        lane: str,
        timeout_s: float,
        terms: Terms,
    ) -> Encoded:
        self._arrived[Lane(lane)] += batch.tokens
        begin = partial(trials.begin, terms.trial) if terms.trial else None
        return await asyncio.wrap_future(
            model.batcher.submit(batch, Lane(lane), timeout_s, begin, share=terms.share)
        )

    def _pinned(self, spec: ModelSpec) -> ModelConfig:
        """Returns the config with the commit that was loaded; a branch may have moved on since.

        A folder has no commit: clients on other nodes have to look at their own files.
        """
        if Path(self._config.path or self._config.name).is_dir():
            return self._config
        return self._config.model_copy(update={"revision": spec.revision})

    async def status(self) -> ReplicaStatus:
        """As `said`, for calls by handle."""
        return self.said()

    def waiting(self) -> dict[Lane, int]:
        """Returns the tokens that wait in each lane."""
        model = self._model.value
        return _waiting_tokens(model.batcher) if model else {}

    def said(self) -> ReplicaStatus:
        """Returns this replica's state and figures, for `/v1/models` and for the choice of a replica."""
        model = self._model.value
        if model is None:
            failure = self._model.failure
            state = ReplicaState.LOADING if failure is None else ReplicaState.UNAVAILABLE
            return ReplicaStatus(state, failure or "loading")
        return ReplicaStatus(
            ReplicaState.READY,
            device=model.device,
            dtype=model.dtype,
            tokens_per_s=round(model.batcher.tokens_per_s),
            waiting=_waiting_tokens(model.batcher),
            start_s=model.start_s,
            gpu_ids=model.gpu_ids,
            token_budget=model.token_budget,
            streams=model.batcher.streams,
            space=space_id(model.spec),
            network=model.verdict.network.value if model.verdict else None,
            why_general=model.verdict.why_general if model.verdict else None,
            compared_with=model.verdict.compared_with if model.verdict else None,
            memory_mib=(m.used_mib, m.limit_mib) if (m := model.memory) else None,
        )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Returns what `replica/autoscaling.py` decides by; Serve calls this every second.

        Refused work counts as arrived. Without a loaded model there is nothing to report.
        """
        if (model := self._model.value) is None:
            return {}
        batcher, start_s = model.batcher, max(self._start_s, model.start_s)
        return report(self._arrived, _waiting_tokens(batcher), batcher.tokens_per_s, start_s)

    async def check_health(self) -> None:
        """Raises if this replica has to be replaced, which Serve then does.

        That is: the engine's loop has ended, a real forward pass fails or hangs, or the model cannot
        be loaded here although another replica has it or a new process might.
        """
        model = self._model.value
        if model is None:
            await self._check_siblings()
            self._check_process()
            return
        if not model.batcher.alive:
            raise RuntimeError(f"{self._name}: the engine's loop has ended")
        if (running_s := model.batcher.pass_s) > self._wedged_after(model):
            raise RuntimeError(
                f"{self._name}: a forward pass has been running for {running_s:.0f} s"
            )
        if _needs_probe(model.batcher):
            await _probe(model)

    async def _check_siblings(self) -> None:
        """Raises if another replica has the model.

        A replica that refuses its calls at once has the shortest queue, and would get most of them.
        """
        failure = self._model.failure
        if failure is not None and await self._siblings.any_ready():
            raise RuntimeError(
                f"{self._name} cannot be loaded by this replica, but was by another one: {failure}"
            )

    def _check_process(self) -> None:
        """Raises if only a new process can load the model, once callers have had time to see why."""
        age_s = time.monotonic() - self._created
        if self._model.needs_new_process and age_s > _EXPLAIN_S:
            raise RuntimeError(f"{self._name} needs a new process: {self._model.failure}")

    def _wedged_after(self, model: LoadedModel) -> float:
        return max(self.wedged_after_s, _PASSES_BEFORE_WEDGED * model.longest_pass_s)

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve awaits what this returns, after the last call by handle and before the process ends."""
        if (connections := self._connections) is None:
            self._stop()
            return None
        self._connections = None
        return self._leave(connections)

    async def _leave(self, connections: ConnectionServer) -> None:
        await asyncio.to_thread(registry.withdraw, self._replica)
        await connections.close(self._answer_s)
        self._stop()

    def _stop(self) -> None:
        self._model.stop()
        if (model := self._model.value) is not None:
            model.batcher.stop(timeout_s=1.0)


def _waiting_tokens(batcher: Batcher) -> dict[Lane, int]:
    return {lane: batcher.waiting(lane)[1] for lane in Lane}


def _needs_probe(batcher: Batcher) -> bool:
    last = batcher.last_success
    return last is None or time.monotonic() - last > _IDLE_BEFORE_PROBE_S


async def _probe(model: LoadedModel) -> None:
    """Runs a small forward pass. Raises its error, or TimeoutError."""
    batch = sample(model.engine, 1, 8)
    future = model.batcher.submit(batch, Lane.ONLINE, _PROBE_TIMEOUT_S)
    encoded = await asyncio.wait_for(asyncio.wrap_future(future), _PROBE_TIMEOUT_S)
    for error in encoded.errors.values():
        raise error


class Siblings:
    """All replicas of the deployment that this process belongs to. For one asyncio loop."""

    @cached_property
    def _handle(self) -> DeploymentHandle:
        context = serve.get_replica_context()
        return serve.get_deployment_handle(context.deployment, context.app_name)

    async def any_ready(self) -> bool:
        """Whether one of them has loaded the model; False if none says so in time."""
        try:
            async with asyncio.timeout(_SIBLINGS_TIMEOUT_S):
                responses = self._handle.broadcast("status")
                statuses = await responses.results_async(return_exceptions=True)
        except Exception as error:  # there are none, or the controller cannot be reached
            log.debug("no other replica can be reached: %s", error)
            return False
        return any(getattr(status, "state", None) is ReplicaState.READY for status in statuses)
