"""``POST /v1/embeddings`` and ``POST /v1/route``, which explains the choice of a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from deployments.api.auth import tenant_of
from deployments.api.backend import Backend
from deployments.api.bodies import read_request
from deployments.api.http import JSON, ApiLimits, admitted, embedding_response, required_space
from deployments.api.rate_limits import encode
from deployments.api.requests import EmbeddingRequest
from deployments.api.responses import embeddings_body, route_body
from deployments.api.tenants import with_priority
from deployments.core.awaiting import in_time
from deployments.core.errors import InvalidRequest
from deployments.core.models.prompts import choose_role
from deployments.core.request import Embeddings, EncodeRequest, TokenInput
from deployments.core.routing.facts import RequestFacts
from deployments.core.routing.policy import Decision, agree
from deployments.core.routing.refusals import refuse_replaced
from deployments.traces.spans import span


async def create_embeddings(request: Request) -> Response:
    """Encodes the inputs with the model that the request asks for."""
    deadline = request.app.state.limits.deadline()
    body = await read_request(EmbeddingRequest, request, request.app.state.limits, deadline)
    embeddings, decision = await encoded(request, body, deadline)
    content = await embeddings_body(embeddings, body.encoding_format, body.output_dtype)
    return embedding_response(content, embeddings, decision)


@dataclass(frozen=True)
class Conditions:
    """What holds for a request beside its body.

    ``space`` is the one that a header requires, ``models`` are the only ones that the caller may use.
    """

    limits: ApiLimits
    space: str | None = None
    models: frozenset[str] | None = None

    @classmethod
    def of(cls, request: Request) -> Conditions:
        """Returns those of an HTTP request. Raises as `required_space`."""
        models = tenant_of(request).models
        return cls(request.app.state.limits, required_space(request), models)


async def encoded(
    request: Request, body: EmbeddingRequest, deadline: float
) -> tuple[Embeddings, Decision]:
    """Returns the vectors of an HTTP request, and why that model gave them. As `answered`."""
    backend: Backend = request.app.state.backend
    body = with_priority(request, body)

    async def admit_and_encode(decision: Decision, to_encode: EncodeRequest) -> Embeddings:
        with admitted(request, body.priority):
            return await encode(request, decision, to_encode, body.priority, deadline)

    return await answered(backend, body, Conditions.of(request), deadline, admit_and_encode)


async def answered(
    backend: Backend,
    body: EmbeddingRequest,
    conditions: Conditions,
    deadline: float,
    encode: Callable[[Decision, EncodeRequest], Awaitable[Embeddings]],
) -> tuple[Embeddings, Decision]:
    """Returns the vectors of a typed request, wherever it came from, and why that model gave them.

    ``encode`` has the chosen model do the work. The vectors are float32; their space is that of the
    request's ``output_dtype``.
    """
    facts, texts = _facts_and_texts(body, conditions)
    with span("choose"):
        decision = await in_time(backend.choose(facts, texts), deadline)
    role = choose_role(agree(decision.role, body.input_type), body.instruction)
    to_encode = EncodeRequest(
        texts,
        role,
        body.instruction,
        facts.truncate,
        body.dimensions,
        body.normalize,
        sparse=body.is_sparse,
    )
    embeddings = await encode(decision, to_encode)
    refuse_replaced(facts, decision.space, embeddings.space)
    answered_in = embeddings.space + body.output_dtype.space_suffix
    return replace(embeddings, space=answered_in), decision


async def explain_route(request: Request) -> Response:
    """Says which model would encode these inputs, and why each other model would not."""
    backend: Backend = request.app.state.backend
    deadline = request.app.state.limits.deadline()
    body = await read_request(EmbeddingRequest, request, request.app.state.limits, deadline)
    body = with_priority(request, body)
    facts, texts = _facts_and_texts(body, Conditions.of(request))
    explanation = await in_time(backend.explain(facts, texts), deadline)
    role = choose_role(agree(explanation.decision.role, body.input_type), body.instruction)
    return Response(route_body(explanation, role), media_type=JSON)


def _facts_and_texts(
    body: EmbeddingRequest, conditions: Conditions
) -> tuple[RequestFacts, tuple[str, ...] | TokenInput]:
    limits = conditions.limits
    limits.check_count(len(body.inputs), "input")
    facts = replace(
        body.facts(conditions.space, limits.truncate),
        roles=frozenset({body.input_type}) if body.input_type else None,
        dimensions=body.dimensions,
        models=conditions.models,
    )
    return facts, _texts(body.inputs, body.tokenizer)


def _texts(
    inputs: list[str] | list[list[int]], tokenizer: str | None
) -> tuple[str, ...] | TokenInput:
    if isinstance(inputs[0], str):
        return tuple(inputs)
    if tokenizer is None:
        raise InvalidRequest(
            "`input` holds token ids, and ids of another tokenizer would give meaningless vectors; "
            "send text (LangChain: check_embedding_ctx_length=False), or name the tokenizer that "
            "made them in `tokenizer`",
            "input",
        )
    return TokenInput(tokenizer, tuple(tuple(row) for row in inputs))
