"""Typed request bodies: OpenAI's embeddings request and what is ours beside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deployments.api.advice import explained, refuse_misleading
from deployments.core.errors import InvalidRequest
from deployments.core.lane import Lane
from deployments.core.models.spec import Role
from deployments.core.routing.facts import Aim, Facts

Text = Annotated[str, Field(min_length=1)]
# what refers to something is repeated in errors, and an instruction stands in front of each text
Name = Annotated[str, Field(min_length=1, max_length=512)]
_MOST_INSTRUCTION = 4_096
# one error is answered: collecting one for each of a million wrong items would take a minute
_NOT_EMPTY = Field(min_length=1, fail_fast=True)
Format = Literal["float", "base64"]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], _NOT_EMPTY]
_ROLE_NAMES = {
    "query": Role.QUERY,
    "document": Role.DOCUMENT,
    "passage": Role.DOCUMENT,
    "search_query": Role.QUERY,
    "search_document": Role.DOCUMENT,
}


class _Body(BaseModel):
    """Unknown fields are accepted, as OpenAI's clients send them, unless they look like ours or
    would change vectors elsewhere.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class _Common(_Body):
    model: Name | None = Field(
        None,
        description="Name, Hugging Face id, size, space or auto; each also with -query/-document",
    )
    instruction: str | None = Field(
        None,
        min_length=1,
        max_length=_MOST_INSTRUCTION,
        description="One-sentence task, for queries of instruct models",
    )
    truncate: bool | None = Field(
        None, description="Cut texts over the model's limit instead of refusing them"
    )
    normalize: bool | None = Field(
        None, description="L2-normalise the vectors; what the model does by default"
    )
    space: Name | None = Field(None, description="Answer from this embedding space, or with 409")
    aim: Aim | None = Field(None, strict=False, description="What `auto` or a space looks for")
    max_latency_ms: float | None = Field(
        None, gt=0, description="`auto` takes the best model that is expected to answer in time"
    )
    priority: Lane = Field(Lane.ONLINE, strict=False, description="Who waits for whom")
    user: str | None = Field(None, description="Accepted for OpenAI clients, not used")

    @field_validator("priority", mode="before", json_schema_input_type=Lane | None)
    @classmethod
    def _null_is_the_default(cls, value: Any) -> Any:
        return Lane.ONLINE if value is None else value

    def facts(self, required_space: str | None, truncate: bool) -> Facts:
        """Returns what the choice of a model goes by; ``required_space`` is the header's.

        Raises InvalidRequest when header and body require different spaces.
        """
        if required_space and self.space and required_space != self.space:
            raise InvalidRequest(
                f"the header x-require-space says {required_space}, `space` says {self.space}; "
                "drop one",
                "space",
            )
        return Facts(
            requested=self.model,
            truncate=truncate if self.truncate is None else self.truncate,
            instruction=self.instruction,
            space=self.space or required_space or None,  # the header may be there and empty
            aim=self.aim,
            max_latency_ms=self.max_latency_ms,
            lane=self.priority,
        )


class EmbeddingRequest(_Common):
    """``POST /v1/embeddings``."""

    input: (
        Text | Annotated[list[Text], _NOT_EMPTY] | TokenIds | Annotated[list[TokenIds], _NOT_EMPTY]
    ) = Field(description="One text or a list of texts; token ids only together with `tokenizer`")
    encoding_format: Format = "float"
    dimensions: int | None = Field(None, ge=1, description="Fewer only for Matryoshka models")
    input_type: Role | None = Field(None, description="Which prompt the texts get")
    tokenizer: str | None = Field(None, max_length=512, description="Whose token ids `input` holds")

    @field_validator("encoding_format", mode="before", json_schema_input_type=Format | None)
    @classmethod
    def _null_is_float(cls, value: Any) -> Any:
        return "float" if value is None else value

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

    query: Text | Annotated[list[Text], _NOT_EMPTY]
    documents: Text | Annotated[list[Text], _NOT_EMPTY]
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
    documents: Annotated[list[Text | RerankDocument], _NOT_EMPTY]
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
        raise explained(error) from None
    if request.model_extra:
        refuse_misleading(request.model_extra, kind.model_fields)
    return request


def _role_named(value: Any) -> Any:
    if value is None or isinstance(value, Role):
        return value
    if isinstance(value, str) and value in _ROLE_NAMES:
        return _ROLE_NAMES[value]
    raise ValueError(f"must be one of {', '.join(map(repr, _ROLE_NAMES))}")
