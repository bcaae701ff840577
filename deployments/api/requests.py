"""Typed request bodies: OpenAI's embeddings request and what is ours beside it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deployments.embedding.errors import InvalidRequest
from deployments.embedding.lanes import Lane
from deployments.embedding.model import Role

Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
_ROLE_NAMES = {
    "query": Role.QUERY,
    "document": Role.DOCUMENT,
    "passage": Role.DOCUMENT,
    "search_query": Role.QUERY,
    "search_document": Role.DOCUMENT,
}
_OPENAI_FIELDS = {"user"}


class _Body(BaseModel):
    """Unknown fields are accepted, as OpenAI's clients send them, unless they look like ours."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class _Common(_Body):
    model: str | None = Field(
        None, min_length=1, description="Name, Hugging Face id, size, or name with -query/-document"
    )
    instruction: str | None = Field(
        None, min_length=1, description="One-sentence task, for queries of instruct models"
    )
    truncate: bool | None = Field(
        None, description="Cut texts over the model's limit instead of refusing them"
    )
    normalize: bool | None = Field(
        None, description="L2-normalise the vectors; what the model does by default"
    )
    priority: Lane = Field(Lane.ONLINE, strict=False, description="Who waits for whom")
    user: str | None = Field(None, description="Accepted for OpenAI clients, not used")


class EmbeddingRequest(_Common):
    """``POST /v1/embeddings``."""

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1)]
    ) = Field(description="One text or a list of texts; token ids only together with `tokenizer`")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="Fewer only for Matryoshka models")
    input_type: Role | None = Field(None, description="Which prompt the texts get")
    tokenizer: str | None = Field(None, description="Whose token ids `input` holds")

    @field_validator("input_type", mode="before")
    @classmethod
    def _role(cls, value: Any) -> Any:
        return _role_named(value)

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """The inputs as a list, whichever of OpenAI's four shapes was sent."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return self.input


class SimilarityRequest(_Common):
    """``POST /v1/similarity``: a query, or several, against documents."""

    query: Text | Annotated[list[Text], Field(min_length=1)]
    documents: Text | Annotated[list[Text], Field(min_length=1)]
    return_embeddings: bool = Field(False, description="Answer with the vectors too")

    @property
    def queries(self) -> list[str]:
        """The queries as a list."""
        return [self.query] if isinstance(self.query, str) else self.query

    @property
    def texts(self) -> list[str]:
        """The documents as a list."""
        return [self.documents] if isinstance(self.documents, str) else self.documents


class RerankDocument(_Body):
    """A document as an object, the other shape that rerank clients send."""

    text: Text


class RerankRequest(_Common):
    """``POST /v1/rerank``: one query, documents sorted by their score."""

    query: Text
    documents: Annotated[list[Text | RerankDocument], Field(min_length=1)]
    top_n: int | None = Field(None, ge=1, description="How many of the best to return")
    return_documents: bool = False

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [d if isinstance(d, str) else d.text for d in self.documents]


BodyT = TypeVar("BodyT", bound=_Body)


def parse(kind: type[BodyT], body: bytes) -> BodyT:
    """Returns the typed body. Raises InvalidRequest that names the field and the fix."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _explained(error) from None
    if request.model_extra:
        _refuse_misspelt(request.model_extra, kind)
    return request


def _refuse_misspelt(extra: dict[str, Any], kind: type[_Body]) -> None:
    ours = list(kind.model_fields)
    for name in extra:
        if close := get_close_matches(name.lower(), ours, n=1, cutoff=0.8):
            raise InvalidRequest(f"unknown field `{name}`; did you mean `{close[0]}`?", name)


def _role_named(value: Any) -> Any:
    if value is None or isinstance(value, Role):
        return value
    if isinstance(value, str) and value in _ROLE_NAMES:
        return _ROLE_NAMES[value]
    raise ValueError(f"must be one of {', '.join(map(repr, _ROLE_NAMES))}")


def _explained(error: ValidationError) -> InvalidRequest:
    """The first error of the likeliest branch: unions list one error for every branch."""
    errors = error.errors(include_url=False, include_context=False)
    first = max(errors, key=lambda e: (e["type"] == "string_too_short", -errors.index(e)))
    if first["type"] == "json_invalid":
        return InvalidRequest(f"the body is not valid JSON: {first['msg']}")
    if not first["loc"]:
        return InvalidRequest(f"the body must be a JSON object: {first['msg']}")
    field = str(first["loc"][0])
    if field == "input":
        return InvalidRequest(_input_advice(errors), field)
    place = ".".join(
        str(part) for part in first["loc"] if not str(part).startswith(("list[", "str"))
    )
    if first["type"] == "missing":
        return InvalidRequest(f"`{field}` is missing", field)
    return InvalidRequest(f"`{place}`: {first['msg']}", field)


def _input_advice(errors: list[Any]) -> str:
    kinds = {e["type"] for e in errors}
    if kinds == {"missing"}:
        return "`input` is missing; send a text or a list of texts"
    if "string_too_short" in kinds:
        return "`input` holds an empty string, which has no meaning to embed; leave it out"
    if "too_short" in kinds:
        return "`input` is an empty list; send at least one text"
    return "`input` must be a text or a list of texts (or token ids, together with `tokenizer`)"
