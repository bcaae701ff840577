"""The ingress: chooses a model for each request, and answers from that model's replicas."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.api.app import create_app
from deployments.api.auth import ApiKeys
from deployments.api.backend import ModelCard
from deployments.api.settings import Settings
from deployments.client import EncoderClient
from deployments.config import AppArgs, ModelConfig
from deployments.embedding.catalog import CATALOG
from deployments.embedding.errors import EmbedfleetError
from deployments.embedding.lanes import Lane
from deployments.embedding.model import ModelSpec
from deployments.embedding.request import Embeddings, EncodeRequest
from deployments.embedding.routing import Candidate, Decision, choose
from deployments.embedding.space import space_id
from deployments.fleet import Fleet
from deployments.metrics import RequestMetrics, scrape_cluster
from deployments.served import ServedModel
from deployments.status import ModelStatus

log = logging.getLogger("ray.serve")


@serve.ingress()
class Router:
    """Stands between the wire and one EncoderClient for each model."""

    def __init__(self, args: AppArgs, handles: Mapping[str, DeploymentHandle]) -> None:
        self._args = args
        self._models = {model.name: model for model in args.models}
        self._fleet = Fleet(
            serve.get_replica_context().app_name,
            {name: (model, handles[name]) for name, model in self._models.items()},
        )
        self._clients = {
            name: EncoderClient(
                model, handles[name], self._status_of(name), args.limits.cold_wait_s
            )
            for name, model in self._models.items()
        }
        self._candidates = [candidate(model) for model in args.models]
        self._default = args.default_model or args.models[0].name
        self.truncate = args.truncate

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve once this replica is made."""
        self._fleet.start()
        keys = ApiKeys.from_environment()
        log.info("API keys are %s", "asked for" if keys else "off: anyone who reaches it may call")
        limits = self._args.limits
        settings = Settings(limits.max_body_bytes, limits.max_texts, self._args.truncate)
        return create_app(self, settings, keys, RequestMetrics().answered)

    def choose(self, model: str | None) -> Decision:
        """Returns which model answers a request that asks for ``model``; see `routing.choose`."""
        if model is None:
            return Decision(self._default, "default")
        return choose(model, self._candidates)

    async def encode(self, model: str, request: EncodeRequest, lane: Lane) -> Embeddings:
        """Returns the vectors of a request; errors as `EncoderClient.encode`."""
        limits = self._args.limits
        return await self._clients[model].encode(request, lane, limits.request_timeout_s)

    def models(self) -> list[ModelCard]:
        """Returns every configured model and its state."""
        return [self._card(model) for model in self._args.models]

    def served(self, model: str) -> ServedModel | EmbedfleetError:
        """Returns what answers to this name, for corpus jobs; UnknownModel as a value."""
        try:
            decision = self.choose(model)
        except EmbedfleetError as error:
            return error
        config, status = self._models[decision.model], self._fleet.status(decision.model)
        spec = self._clients[decision.model].spec or CATALOG.get(decision.model)
        return ServedModel(config, spec, decision.role, status)

    async def metrics(self) -> str:
        """Returns the whole cluster's metrics in Prometheus' text format."""
        return await scrape_cluster()

    def _status_of(self, name: str) -> Any:
        return lambda: self._fleet.status(name)

    def _card(self, model: ModelConfig) -> ModelCard:
        status = self._fleet.status(model.name)
        spec = self._clients[model.name].spec or CATALOG.get(model.name)
        return ModelCard(
            name=model.name,
            repo=spec.repo if spec else model.path or model.name,
            state=status.state,
            reason=status.reason,
            replicas=status.replicas,
            facts=_facts(model, spec, status),
        )


def candidate(model: ModelConfig) -> Candidate:
    """Returns a configured model as the choice sees it."""
    known = CATALOG.get(model.name)
    size = model.size or (known.size if known else None)
    return Candidate(model.name, known.repo if known else model.path or model.name, size)


def _facts(model: ModelConfig, spec: ModelSpec | None, status: ModelStatus) -> dict[str, Any]:
    size = model.size or (spec.size if spec else None)
    return {
        "size": size.value if size else None,
        "dimension": spec.dimension if spec else None,
        "dimensions": list(spec.dimensions) if spec else None,
        "max_tokens": spec.max_tokens if spec else None,
        "languages": list(spec.languages) if spec else None,
        "space_id": space_id(spec) if spec else None,
        "licence": spec.licence if spec else None,
        "default_instruction": spec.prompts.default_instruction if spec else None,
        "device": status.device,
        "dtype": status.dtype,
        "tokens_per_s": status.tokens_per_s,
    }
