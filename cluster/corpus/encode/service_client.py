"""The way to a model's replicas, also after the service was shut down and started again."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.client.client import EncoderClient
from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import ModelConfig
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane
from deployments.ray_private import forget_ended_serve, known_replicas, serve_instance

log = logging.getLogger(__name__)


class ServiceClient:
    """An `EncoderClient` of the service that runs now.

    Ray's handles belong to the Serve that made them: after a shutdown they are dead, even if the same
    application is deployed again. `follow` then replaces the client.
    """

    def __init__(self, config: ModelConfig, app: str) -> None:
        """``app`` is the Serve application. Call it inside the event loop: in Serve's throughput mode, a
        handle routes in that loop.
        """
        self._config = config
        self._app = app
        self._instance: str | None = None
        self._handle: DeploymentHandle | None = None
        self._client: EncoderClient | None = None
        self._is_connected = asyncio.Event()
        self._calls: set[asyncio.Task[Encoded]] = set()
        self._connect(serve_instance())

    @property
    def replicas(self) -> int:
        """The replicas that can be called now, as far as is known."""
        return len(known_replicas(self._handle.encode)) if self._handle else 0

    async def ready_preprocessor(self, timeout_s: float) -> Preprocessor:
        """As `EncoderClient.ready_preprocessor`."""
        return await (await self._connected(timeout_s)).ready_preprocessor(timeout_s)

    async def encode_tokens(self, batch: TokenBatch, lane: Lane, timeout_s: float) -> Encoded:
        """As `EncoderClient.encode_tokens`. Raises ModelUnavailable if another service has started."""
        client = await self._connected(timeout_s)
        call = asyncio.get_running_loop().create_task(client.encode_tokens(batch, lane, timeout_s))
        self._calls.add(call)
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if client is self._client or (task and task.cancelling()):
                raise
            raise ModelUnavailable(
                f"{self._config.name}: the service has been started again", "model", 0.1
            ) from None
        finally:
            self._calls.discard(call)

    async def follow(self) -> None:
        """Connects to the service that runs now, if it is another one. Call it now and then."""
        instance = await asyncio.to_thread(serve_instance)
        if instance is not None and instance != self._instance:
            log.warning("connecting to the service, which has been started again")
            self._connect(instance)

    def _connect(self, instance: str | None) -> None:
        forget_ended_serve()
        # the application may not be deployed yet
        with suppress(RayServeException, RayError, KeyError):
            self._handle = serve.get_deployment_handle(self._config.deployment_name, self._app)
            old, self._client = self._client, EncoderClient(self._config, self._handle)
            self._instance = instance
            self._is_connected.set()
            for call in self._calls:  # nobody will answer these
                call.cancel()
            if old:
                old.close()

    async def _connected(self, timeout_s: float) -> EncoderClient:
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_connected.wait()
        except TimeoutError:
            raise ModelUnavailable(f"{self._config.name}: no service runs", "model") from None
        assert self._client is not None
        return self._client
