"""The ingress: chooses a model for each request, and answers from that model's replicas."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.api.app import create_app
from deployments.api.auth import ApiKeys
from deployments.api.backend import Texts
from deployments.api.http import ApiLimits
from deployments.api.middleware import AdmissionMiddleware, MetricsMiddleware
from deployments.api.responses import Explanation, ModelItem, RouteCandidate, SpaceItem
from deployments.client.client import EncoderClient
from deployments.config.schema import AppArgs, Routing, routing_of
from deployments.core.errors import EmbedfleetError, ModelUnavailable, Overloaded, SpaceMismatch
from deployments.core.lane import Lane
from deployments.core.models.lengths import about
from deployments.core.request import Embeddings, EncodeRequest, TokenInput
from deployments.core.routing.facts import Facts
from deployments.core.routing.languages import preload
from deployments.core.routing.overload import LastRefusal
from deployments.core.routing.policy import Decision
from deployments.metrics import DecisionMetrics, RequestMetrics, scrape_cluster
from deployments.router.chooser import Chooser
from deployments.router.fleet import Fleet
from deployments.router.listing import model_item, route_candidate, space_item
from deployments.router.shared_spaces import Agreement
from deployments.wire.served import ServedModel, spec_of

log = logging.getLogger("ray.serve")
_FOLLOW_S = 5.0
_MAY_FAIL_OVER = (ModelUnavailable, Overloaded)


@serve.ingress()
class Router:
    """Stands between the wire and one EncoderClient for each model."""

    def __init__(self, args: AppArgs, handles: Mapping[str, DeploymentHandle]) -> None:
        self._args = args
        self._models = {model.name: model for model in args.models}
        self._fleet = Fleet(
            serve.get_replica_context().app_name,
            {name: (model, handles[name]) for name, model in self._models.items()},
            self._follow,
        )
        self._clients = {
            name: EncoderClient(
                model, handles[name], self._status_of(name), args.limits.cold_wait_s
            )
            for name, model in self._models.items()
        }
        self._agreement = Agreement(self._encode_sample, self._fleet.status)
        self._chooser = Chooser(args, self._clients, self._fleet, self._agreement.shared)
        self._decisions = DecisionMetrics()
        self._refusals = {name: LastRefusal() for name in self._models}
        self._configure(args.routing)

    async def reconfigure(self, user_config: Any) -> None:
        """Takes over ``user_config``, which has the fields of ``routing``, without a restart.

        What is wrong in it is logged by field, and the configuration before it stays.
        """
        try:
            self._configure(routing_of(user_config, self._models))
        except ValueError as error:
            log.error("the router keeps its configuration, user_config is refused: %s", error)
        else:
            log.info("the router uses its new user_config")

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve once this replica is made."""
        self._fleet.start()
        self._agreement.start()
        asyncio.get_running_loop().run_in_executor(None, preload)
        keys = ApiKeys.from_environment()
        log.info("API keys are %s", "asked for" if keys else "off: anyone who reaches it may call")
        limits = self._args.limits
        allowed = ApiLimits(
            max_body_bytes=limits.max_body_bytes,
            max_texts=limits.max_texts,
            max_offline=max(1, limits.max_requests // 2),
            truncate=self._args.truncate,
            request_timeout_s=limits.request_timeout_s,
        )
        app = create_app(self, allowed, keys)
        self._admission = AdmissionMiddleware(app, limits.max_requests)
        return MetricsMiddleware(self._admission, RequestMetrics().answered)

    async def drain(self) -> None:
        """Lets no request in any more, and returns when those under way have their answers."""
        left = await self._admission.close(self._args.limits.request_timeout_s)
        log.info("the service is stopping, %d requests are left without an answer", left)

    async def choose(self, facts: Facts, texts: Texts) -> Decision:
        """Returns which model answers; errors as `routing.choose`."""
        _, decision = await self._chooser.choose(facts, texts)
        self._decisions.chose(decision.model, decision.reason)
        return decision

    async def explain(self, facts: Facts, texts: Texts) -> Explanation:
        """Returns which model would answer and why, each model with its reason; runs nothing."""
        looked_at, decision = await self._chooser.choose(facts, texts)
        return Explanation(decision, looked_at, self._candidates(looked_at, decision))

    async def encode(
        self, decision: Decision, request: EncodeRequest, lane: Lane, deadline: float
    ) -> Embeddings:
        """Returns the vectors of a request, from the space that was decided on.

        Where that is shared, another member answers for one that cannot; errors as
        `EncoderClient.encode`.
        """
        *others, last = (decision.model, *decision.failover)
        for model in others:
            try:
                return await self._encode(model, decision.space, request, lane, deadline)
            except _MAY_FAIL_OVER as error:
                log.warning("%s cannot answer, another of its space will: %s", model, error)
        return await self._encode(last, decision.space, request, lane, deadline)

    def models(self) -> list[ModelItem]:
        """Returns every configured model and its state."""
        return [
            model_item(candidate, self._fleet.status(candidate.name))
            for candidate in self._chooser.candidates()
        ]

    def spaces(self) -> list[SpaceItem]:
        """Returns every configured space and whether it holds."""
        return [space_item(space, v) for space, v in self._agreement.verdicts().items()]

    async def served(self, model: str) -> ServedModel | EmbedfleetError:
        """Returns what answers to this name, for corpus jobs; a refusal comes back as a value."""
        try:
            decision = await self._chooser.choose_one(model)
        except EmbedfleetError as error:
            return error
        config, status = self._models[decision.model], self._fleet.status(decision.model)
        spec = spec_of(config, self._clients[decision.model].spec)
        return ServedModel(config, spec, decision.role, status)

    async def metrics(self) -> str:
        """Returns the whole cluster's metrics in Prometheus' text format."""
        return await scrape_cluster()

    async def _encode(
        self,
        model: str,
        space: str | None,
        request: EncodeRequest,
        lane: Lane,
        deadline: float,
    ) -> Embeddings:
        texts = request.texts
        tokens = sum(map(len, texts.rows)) if isinstance(texts, TokenInput) else about(texts)
        if lane is Lane.ONLINE:
            self._refusals[model].repeat(tokens, time.monotonic())
        try:
            with self._chooser.under_way(model, lane, tokens):
                left_s = deadline - time.monotonic()
                found = await self._clients[model].encode(request, lane, left_s)
        except Overloaded as error:
            if lane is Lane.ONLINE:
                self._refusals[model].note(tokens, error, time.monotonic())
            raise
        if space is None:
            return found
        shared, own = (name.partition(":")[0] for name in (space, found.space))
        if not self._agreement.holds(shared, model, own):
            raise SpaceMismatch(
                f"{model} was replaced: space {space} has to be compared anew", "space"
            )
        return replace(found, space=space)

    async def _encode_sample(self, model: str, request: EncodeRequest) -> Embeddings:
        deadline = time.monotonic() + self._args.limits.request_timeout_s
        return await self._encode(model, None, request, Lane.OFFLINE, deadline)

    async def _follow(self, model: str) -> None:
        await self._clients[model].follow_replica(_FOLLOW_S)

    def _configure(self, routing: Routing) -> None:
        self._agreement.configure(routing)
        self._chooser.configure(routing)

    def _candidates(self, facts: Facts, decision: Decision) -> list[RouteCandidate]:
        expected = self._chooser.expected_ms(facts)
        return [
            route_candidate(c, self._fleet.status(c.name), facts, decision, expected[c.name])
            for c in self._chooser.candidates()
        ]

    def _status_of(self, name: str) -> Any:
        return lambda: self._fleet.status(name)
