"""The deployment of one model: a replica holds its weights, and takes token ids for vectors.

A model that cannot load does not crash its replica: the replica answers each call with the reason,
and loads again until the cause is gone. (Where its process never could, it ends if its GPU is lost, and
calls itself ill if CUDA has not started.) Where another replica has its model, as in an update to
weights that are not there, it stands back and takes no calls. Serve imports this file everywhere, so
torch stays out.

The other replicas of a deployment, as one of them that cannot load its model sees them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.config.schema import Limits, ModelConfig
from deployments.core.background_loader import BackgroundLoader
from deployments.core.batch import Encoded, Ids, TokenBatch
from deployments.core.engine.warmup import sample
from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.models.spec import ModelSpec
from deployments.core.models.tokenizer import out_of_vocabulary
from deployments.replica.autoscaling import report
from deployments.wire import trials
from deployments.wire.calls import OtherVersion, Terms
from deployments.wire.status import ReplicaState, ReplicaStatus

if TYPE_CHECKING:
    from deployments.core.batching.batcher import Batcher
    from deployments.replica.loaded_model import LoadedModel

log = logging.getLogger("ray.serve")
_IDLE_BEFORE_PROBE_S = 60.0
_PROBE_TIMEOUT_S = 20.0
_PASSES_BEFORE_WEDGED = 20.0
_LOOK_S = 5.0
_TOLD_S = 60.0


class Encoder:
    """One replica of one model. Knows token ids, lanes and vectors; no texts, no HTTP."""

    wedged_after_s = 20.0

    def __init__(self, config: ModelConfig, limits: Limits) -> None:
        """Returns once the model is loaded, or where no replica has it: Serve counts one in, and stops
        an old one for it, as soon as it is made.
        """
        self._made = started = time.monotonic()
        self._config = config
        self._name = config.name
        self._asked = dict.fromkeys(Lane, 0)
        self._siblings = Siblings()
        self._model = BackgroundLoader(lambda: self.load(config, limits), config.name)
        while not self._model.wait(timeout_s=30.0):
            log.info("%s is still loading", config.name)
        if self._model.value is None:
            with ThreadPoolExecutor(1) as apart:  # Serve's event loop runs in this thread
                apart.submit(asyncio.run, self._stand_back()).result()
        self._start_s = time.monotonic() - started  # with what the process had to import

    async def _stand_back(self) -> None:
        siblings = Siblings()
        while self._model.value is None and await siblings.any_ready():
            await asyncio.sleep(_LOOK_S)

    def load(self, config: ModelConfig, limits: Limits) -> LoadedModel:
        """Returns the model, ready to encode. Blocks; raises as `load_model`."""
        from deployments.replica.loading import load_model

        return load_model(config, limits)

    async def encode(
        self, ids: Ids, lengths: Ids, lane: str, timeout_s: float, terms: Terms
    ) -> Encoded | OtherVersion | EmbedfleetError:
        """Returns the vectors of a call's texts, or the error that answers it.

        Refusals come back as values: they are ordinary answers, not failures of the replica. A call
        that was made for another space gets OtherVersion. Cancelling the call drops the texts that
        have not been computed.
        """
        try:
            model = self._model.get()
            if terms.space != (own := space_id(model.spec)):
                return OtherVersion(self._pinned(model.spec), own)
            batch = TokenBatch(ids, lengths)
            refused = out_of_vocabulary(batch, model.engine.vocabulary)
            if not refused:
                return await self._computed(model, batch, lane, timeout_s, terms.trial)
            if terms.trial or len(refused) == len(batch):
                return next(iter(refused.values()))
            kept = [row for row in range(len(batch)) if row not in refused]
            found = await self._computed(model, batch.select(kept), lane, timeout_s)
            return found.among(kept, len(batch), refused)
        except EmbedfleetError as error:
            return error

    def _pinned(self, spec: ModelSpec) -> ModelConfig:
        """Returns the config with the commit that was loaded: a branch may have another elsewhere."""
        if Path(self._config.path or self._config.name).is_dir():
            return self._config  # who reads its files has to look what they are
        return self._config.model_copy(update={"revision": spec.revision})

    async def _computed(
        self,
        model: LoadedModel,
        batch: TokenBatch,
        lane: str,
        timeout_s: float,
        trial: str | None = None,
    ) -> Encoded:
        self._asked[Lane(lane)] += batch.tokens
        begin = partial(trials.begin, trial) if trial else None
        return await asyncio.wrap_future(model.batcher.submit(batch, Lane(lane), timeout_s, begin))

    async def status(self) -> ReplicaStatus:
        """Returns what this replica is, for `/v1/models`."""
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
            waiting={lane: model.batcher.waiting(lane)[1] for lane in Lane},
            start_s=model.start_s,
            gpu_ids=model.gpu_ids,
            token_budget=model.token_budget,
            streams=model.batcher.streams,
            memory_mib=(m.used_mib, m.limit_mib) if (m := model.memory) else None,
        )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Returns what `deployments/replica/autoscaling.py` decides by; Serve asks every second.

        Work that was refused counts as asked. A model that is not loaded has nothing to say.
        """
        if (model := self._model.value) is None:
            return {}
        batcher, start_s = model.batcher, max(self._start_s, model.start_s)
        waiting = {lane: batcher.waiting(lane)[1] for lane in Lane}
        return report(self._asked, waiting, batcher.tokens_per_s, start_s)

    async def check_health(self) -> None:
        """Raises when the engine's loop has ended, when a real forward pass fails or hangs, or when
        the model cannot be loaded here and another replica has it, or a new process might.

        Serve then replaces this replica.
        """
        model = self._model.value
        if model is None:
            await self._check_siblings()
            self._check_process()
            return
        if not model.batcher.alive:
            raise RuntimeError(f"{self._name}: the engine's loop has ended")
        if (running := model.batcher.pass_s) > self._wedged_after(model):
            raise RuntimeError(f"{self._name}: a forward pass hangs, for {running:.0f} s now")
        if _needs_probe(model.batcher):
            probe = model.batcher.submit(sample(model.engine, 1, 8), Lane.ONLINE, _PROBE_TIMEOUT_S)
            found = await asyncio.wait_for(asyncio.wrap_future(probe), _PROBE_TIMEOUT_S)
            for error in found.errors.values():
                raise error

    async def _check_siblings(self) -> None:
        """One that refuses its calls at once has the shortest queue, and would get most of them."""
        failure = self._model.failure
        if failure is not None and await self._siblings.any_ready():
            raise RuntimeError(f"{self._name} cannot be loaded here, elsewhere it was: {failure}")

    def _check_process(self) -> None:
        """Serve makes a new one, after callers could read the reason for a while."""
        if self._model.needs_new_process and time.monotonic() - self._made > _TOLD_S:
            raise RuntimeError(f"{self._name} needs a new process: {self._model.failure}")

    def _wedged_after(self, model: LoadedModel) -> float:
        return max(self.wedged_after_s, _PASSES_BEFORE_WEDGED * model.longest_pass_s)

    def __del__(self) -> None:
        self._model.stop()
        if (model := self._model.value) is not None:
            model.batcher.stop(timeout_s=1.0)


def _needs_probe(batcher: Batcher) -> bool:
    last = batcher.last_success
    return last is None or time.monotonic() - last > _IDLE_BEFORE_PROBE_S


_TIMEOUT_S = 3.0


class Siblings:
    """Asks all replicas of the deployment that this process serves. For one asyncio loop."""

    @cached_property
    def _handle(self) -> DeploymentHandle:
        own = serve.get_replica_context()
        return serve.get_deployment_handle(own.deployment, own.app_name)

    async def any_ready(self) -> bool:
        """Whether one of them has its model; False where none says so in time."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                asked = self._handle.broadcast("status")
                found = await asked.results_async(return_exceptions=True)
        except Exception as error:  # there is none, or the controller is away
            log.debug("no other replica can be asked: %s", error)
            return False
        return any(getattr(one, "state", None) is ReplicaState.READY for one in found)
