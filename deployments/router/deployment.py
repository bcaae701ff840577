"""The router: the ingress deployment, which chooses a model for each request and has it encoded.

A request is read by the HTTP API (`deployments/api`), which calls `Router.choose` and then
`Router.encode`, and writes the answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.api.access_log import AccessLogMiddleware, count_work
from deployments.api.app import create_app
from deployments.api.auth import ApiKeys, allowed_hosts
from deployments.api.backend import Texts
from deployments.api.cors import allow_origins
from deployments.api.files import ApiBatches
from deployments.api.http import ApiLimits
from deployments.api.middleware import AdmissionMiddleware, MetricsMiddleware
from deployments.api.responses import Explanation, ModelItem, SpaceItem
from deployments.api.tracing import TracingMiddleware
from deployments.batches.threads import StoreThreads
from deployments.client.client import EncoderClient
from deployments.config.schema import AppArgs, BatchesConfig, Routing, routing_of
from deployments.core.errors import (
    EmbedfleetError,
    ModelUnavailable,
    Overloaded,
    SpaceMismatch,
)
from deployments.core.lane import Lane
from deployments.core.models.spec import GIVE_VECTORS, Kind
from deployments.core.request import Embeddings, EncodeRequest, estimated_tokens
from deployments.core.routing.facts import RequestFacts
from deployments.core.routing.languages import preload
from deployments.core.routing.overload import LastRefusal, refuse_if_hopeless
from deployments.core.routing.policy import Decision
from deployments.core.tenants.usage import TenantUsage
from deployments.metrics import (
    ClusterMetrics,
    DecisionMetrics,
    FleetMetrics,
    Replicas,
    RequestMetrics,
    scrape_cluster,
)
from deployments.ray_private import KeyValueStore, replace_access_log, request_id
from deployments.router.all_routers import AllRouters
from deployments.router.background import every_second
from deployments.router.batches import configured_store
from deployments.router.chooser import Chooser
from deployments.router.fleet import Fleet
from deployments.router.listing import model_item, route_candidate, served_model, space_item
from deployments.router.peers import Peers
from deployments.router.pulse import Pulse, node_is_alive
from deployments.router.shared_spaces import SharedSpaces
from deployments.router.tenancy import Tenancy
from deployments.traces.export import tracing_from
from deployments.wire.status import ReplicaStatus, ServedModel

log = logging.getLogger("ray.serve")
_FOLLOW_TIMEOUT_S = 5.0
_LAST_TRACES_S = 5.0  # for the collector, once the service stops
_MAY_FAIL_OVER = (ModelUnavailable, Overloaded)


class FleetBackend:
    """The API's backend in any process of the service: one EncoderClient for each model, and the choice
    between them.
    """

    def __init__(self, args: AppArgs, handles: Mapping[str, DeploymentHandle]) -> None:
        self._args = args
        self._models = {model.name: model for model in args.models}
        self._fleet = Fleet(
            serve.get_replica_context().app_name,
            {name: (model, handles[name]) for name, model in self._models.items()},
            self._replica_statuses,
            self._follow_replica,
        )
        self._clients = {
            name: EncoderClient(
                model, handles[name], partial(self._fleet.status, name), args.limits.cold_wait_s
            )
            for name, model in self._models.items()
        }
        self._pulse = Pulse(node_is_alive)
        self._tenancy = Tenancy(args.api.keys_file, self._models, _peers())
        self._others = AllRouters(args.routers)
        self._spaces = SharedSpaces(self._encode_sample, self._fleet.status)
        self._chooser = Chooser(args, self._clients, self._fleet, self._spaces.of)
        self._decisions = DecisionMetrics()
        self._fleet_metrics = FleetMetrics()
        self._metrics = ClusterMetrics(scrape_cluster)
        # of each model to each tenant: what is full for one may not be for another
        self._refusals: dict[tuple[str, str], LastRefusal] = defaultdict(LastRefusal)
        self._configure(args.routing)

    async def choose(self, facts: RequestFacts, texts: Texts) -> Decision:
        """Returns which model answers. Raises what `policy.choose` raises."""
        _, decision = await self._chooser.choose(facts, texts)
        self._decisions.chose(decision.model, decision.reason)
        return decision

    async def encode(
        self, decision: Decision, request: EncodeRequest, lane: Lane, deadline: float
    ) -> Embeddings:
        """Returns the vectors of a request, in the space that was decided on.

        In a shared space, another member answers if the chosen one cannot. Raises what
        `EncoderClient.encode` raises, and SpaceMismatch.
        """
        *others, last = (decision.model, *decision.failover)
        for model in others:
            try:
                return await self._encode_in(decision.space, model, request, lane, deadline)
            except _MAY_FAIL_OVER as error:
                log.warning(
                    "%s cannot answer, so another member of its space does: %s", model, error
                )
        return await self._encode_in(decision.space, last, request, lane, deadline)

    async def _encode_in(
        self, space: str | None, model: str, request: EncodeRequest, lane: Lane, deadline: float
    ) -> Embeddings:
        """Returns one model's vectors, under the id of ``space`` if that is a shared one.

        Raises SpaceMismatch if the model is no longer the one that was compared with the others.
        """
        try:
            embeddings = await self._encode_with(model, request, lane, deadline)
        except Overloaded:
            self._fleet_metrics.refused(model, lane)
            raise
        count_work(len(embeddings.vectors), embeddings.tokens)
        if space is None:
            return embeddings
        shared_id, own_id = (name.partition(":")[0] for name in (space, embeddings.space))
        if not self._spaces.is_current(shared_id, model, own_id):
            raise SpaceMismatch(
                f"{model} was replaced, and the models of space {space} are being compared again; "
                "retry soon, or drop `space`",
                "space",
            )
        return replace(embeddings, space=space)

    async def _encode_with(
        self, model: str, request: EncodeRequest, lane: Lane, deadline: float
    ) -> Embeddings:
        """Returns one model's vectors.

        An online request like one just refused is refused at once, and so is one of either lane that
        cannot be done before its deadline.
        """
        spec, refusals = self._clients[model].spec, self._refusals[model, request.share.name]
        tokens = estimated_tokens(request, spec.max_tokens if spec else None)
        speed = self._chooser.load(model).tokens_per_s
        refuse_if_hopeless(tokens, speed, deadline - time.monotonic())
        if lane is Lane.ONLINE:
            refusals.repeat(tokens, time.monotonic())
        try:
            with self._chooser.in_progress(model, lane, tokens):
                return await self._clients[model].encode(request, lane, deadline - time.monotonic())
        except Overloaded as error:
            if lane is Lane.ONLINE:
                refusals.note(tokens, error, time.monotonic())
            raise

    async def explain(self, facts: RequestFacts, texts: Texts) -> Explanation:
        """Returns which model would answer and why, with a reason for each model. Encodes nothing."""
        facts, decision = await self._chooser.choose(facts, texts)
        expected = self._chooser.expected_ms(facts)
        candidates = [
            route_candidate(c, self._fleet.status(c.name), facts, decision, expected[c.name])
            for c in facts.allowed(self._chooser.candidates())
        ]
        return Explanation(decision, facts, candidates)

    def models(self) -> list[ModelItem]:
        """Returns every configured model and its state."""
        return [
            model_item(candidate, self._fleet.status(candidate.name))
            for candidate in self._chooser.candidates()
        ]

    def spaces(self) -> list[SpaceItem]:
        """Returns every configured space, and whether its members agree."""
        return [space_item(space, v) for space, v in self._spaces.verdicts().items()]

    def cluster_problem(self) -> str | None:
        """Returns why this router should get no further requests; None if its cluster is well."""
        return self._pulse.problem

    async def usage(self, tenant: str, own: TenantUsage) -> TenantUsage:
        """Returns what a tenant has used at all routers and in batches, as far as they answer."""
        return await self._others.usage(tenant, own)

    async def own_usage(self, tenant: str) -> TenantUsage:
        """Returns what a tenant has used in this process, for another router."""
        return self._tenancy.limits.usage.of(tenant)

    async def metrics(self) -> str:
        """Returns the whole cluster's metrics in Prometheus' text format."""
        return await self._metrics.page()

    def start(self) -> None:
        """Starts what runs in the background. Call it in the event loop."""
        self._fleet.start()
        self._pulse.start()
        self._spaces.start()
        asyncio.get_running_loop().run_in_executor(None, preload)

    def _configure(self, routing: Routing) -> None:
        self._routing = routing
        self._spaces.configure(routing)
        self._chooser.configure(routing)

    async def _encode_sample(self, model: str, request: EncodeRequest) -> Embeddings:
        deadline = time.monotonic() + self._args.limits.request_timeout_s
        return await self._encode_with(model, request, Lane.OFFLINE, deadline)

    def _replica_statuses(self, model: str) -> Sequence[ReplicaStatus]:
        return self._clients[model].statuses()

    async def _follow_replica(self, model: str) -> None:
        await self._clients[model].follow_replica(_FOLLOW_TIMEOUT_S)


@serve.ingress()
class Router(FleetBackend):
    """The router process: that backend behind the HTTP API."""

    def __init__(
        self,
        args: AppArgs,
        handles: Mapping[str, DeploymentHandle],
        batches: DeploymentHandle | None = None,
    ) -> None:
        """``batches`` runs what the routes of batches put into the store."""
        super().__init__(args, handles)
        self._others = AllRouters(args.routers, batches)

    async def served(
        self, model: str, kinds: tuple[Kind, ...] = GIVE_VECTORS
    ) -> ServedModel | EmbedfleetError:
        """Returns the model that has this name, for corpus jobs that need one of these kinds.

        A refusal is returned, not raised.
        """
        try:
            decision = await self._chooser.choose_for_job(model, kinds)
        except EmbedfleetError as error:
            return error
        name = decision.model
        spec, status = self._clients[name].spec, self._fleet.status(name)
        return served_model(self._models[name], spec, decision.role, status)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Starts what runs in the background and returns the HTTP API; Serve calls it once."""
        self.start()
        keys = ApiKeys.from_environment()
        self._tenancy.start(keys)
        self._reporting = asyncio.get_running_loop().create_task(
            every_second("the metrics of the fleet", self._report)
        )
        log.info("API keys are %s", "required" if keys else "off: anyone who can connect may call")
        batches = _api_batches(self._args.batches)
        limits, used = api_limits(self._args), self._tenancy.limits
        page = self._args.api.page
        app = create_app(self, limits, keys, allowed_hosts(), used, batches, page)
        self._admission = AdmissionMiddleware(app, self._args.limits.max_requests)
        open_to_pages = allow_origins(self._admission, self._args.api.cors_origins)
        measured = MetricsMiddleware(open_to_pages, RequestMetrics().answered)
        self._tracing = tracing_from()
        traced = TracingMiddleware(measured, self._tracing) if self._tracing else measured
        return AccessLogMiddleware(traced, replace_access_log(), request_id)

    async def _report(self) -> None:
        for name in self._models:
            status, wanted = self._fleet.status(name), self._fleet.wanted(name)
            replicas = Replicas(status.replicas, wanted, status.replica.tokens_per_s or 0)
            self._fleet_metrics.model(name, status.state, replicas)
        for space, verdict in self._spaces.verdicts().items():
            if verdict.id:  # else its members have not been compared
                self._fleet_metrics.space(space.name, verdict.problem is None)
        self._fleet_metrics.tell_refusals()

    async def routing(self) -> Routing:
        """Returns how models are chosen now, for the runner of batches."""
        return self._routing

    async def reconfigure(self, user_config: Any) -> None:
        """Applies ``user_config``, which has the fields of ``routing``, without a restart.

        If it is wrong, the field is logged and the configuration stays as it was.
        """
        try:
            self._configure(routing_of(user_config, self._models))
        except ValueError as error:
            log.error("user_config is refused, the router keeps its configuration: %s", error)
        else:
            log.info("the router uses its new user_config")

    async def drain(self) -> None:
        """Admits no further request, and returns once those in progress have their answers."""
        left = await self._admission.close(self._args.limits.request_timeout_s)
        log.info("the service is stopping; %d requests are left without an answer", left)
        if self._tracing is not None:
            await self._tracing.close_within(_LAST_TRACES_S)


def _api_batches(config: BatchesConfig | None) -> ApiBatches | None:
    """Returns what the routes of batches need. Their store is opened at the first request for it."""
    if config is None:
        return None
    return ApiBatches(config, StoreThreads(partial(configured_store, config)))


def _peers() -> Peers:
    context = serve.get_replica_context()
    store = KeyValueStore("embedfleet")
    return Peers(store, f"routers/{context.app_name}/", context.replica_id.to_full_id_str())


def api_limits(args: AppArgs) -> ApiLimits:
    """Returns the limits of a request."""
    limits = args.limits
    return ApiLimits(
        max_body_bytes=limits.max_body_bytes,
        max_texts=limits.max_texts,
        max_offline=max(1, limits.max_requests // 2),
        truncate=args.truncate,
        request_timeout_s=limits.request_timeout_s,
    )
