"""``POST /v1/embeddings``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from deployments.api.backend import Backend
from deployments.api.http import answer, read_body
from deployments.api.requests import EmbeddingRequest, parse
from deployments.api.responses import embeddings_body
from deployments.api.settings import Settings
from deployments.embedding.errors import InvalidRequest
from deployments.embedding.model import Role
from deployments.embedding.prompts import choose_role
from deployments.embedding.request import EncodeRequest, TokenInput
from deployments.embedding.routing import agree


async def create_embeddings(request: Request) -> Response:
    """Encodes the inputs with the model that the request asks for."""
    backend: Backend = request.app.state.backend
    settings: Settings = request.app.state.settings
    body = parse(EmbeddingRequest, await read_body(request, settings.max_body_bytes))
    decision = backend.choose(body.model)
    role = choose_role(agree(decision.role, body.input_type), body.instruction)
    found = await backend.encode(
        decision.model, _encode_request(body, role, settings), body.priority
    )
    return answer(embeddings_body(found, body.encoding_format), found, decision)


def _encode_request(body: EmbeddingRequest, role: Role, settings: Settings) -> EncodeRequest:
    inputs = body.inputs
    settings.check_count(len(inputs), "input")
    return EncodeRequest(
        texts=_texts(inputs, body.tokenizer),
        role=role,
        instruction=body.instruction,
        truncate=settings.truncate if body.truncate is None else body.truncate,
        dimensions=body.dimensions,
        normalize=body.normalize,
    )


def _texts(
    inputs: list[str] | list[list[int]], tokenizer: str | None
) -> tuple[str, ...] | TokenInput:
    if isinstance(inputs[0], str):
        return tuple(inputs)
    if tokenizer is None:
        raise InvalidRequest(
            "`input` holds token ids, and ids of another tokenizer would give meaningless vectors; "
            "send text (LangChain: check_embedding_ctx_length=False), or name the tokenizer they "
            "come from in `tokenizer`",
            "input",
        )
    return TokenInput(tokenizer, tuple(tuple(row) for row in inputs))
