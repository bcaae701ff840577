"""Typed request bodies: OpenAI's embeddings request and what is ours beside it."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deployments.embedding.batching.lanes import Lane
from deployments.embedding.errors import InvalidRequest
from deployments.embedding.models.model import Role
from deployments.embedding.routing.facts import Aim, Facts

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
_SHAPES = {
    "input": "a text or a list of texts (or token ids, together with `tokenizer`)",
    "query": "a text (for /v1/similarity also a list of texts)",
    "documents": "a list of texts",
}
_MOST_EXTRAS_LOOKED_AT = 100
# what other servers' clients send that would change vectors, and what says the same here
_OF_OTHERS = {
    "prompt": "`instruction`",
    "prompt_name": "`input_type`",
    "task": "`input_type` or `instruction`",
    "task_type": "`input_type`",
    "output_dimension": "`dimensions`",
    "output_dimensionality": "`dimensions`",
    "truncate_dim": "`dimensions`",
    "truncate_prompt_tokens": "`truncate`",
    "modality": "only text, without this field",
    "late_chunking": "one text at a time, without this field",
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
        raise _explained(error) from None
    if request.model_extra:
        _refuse_misleading(request.model_extra, kind)
    return request


def _refuse_misleading(extra: dict[str, Any], kind: type[_Body]) -> None:
    ours = list(kind.model_fields)
    for name in islice(extra, _MOST_EXTRAS_LOOKED_AT):
        if name in _OF_OTHERS and extra[name] is not None:
            raise InvalidRequest(f"unknown field `{name}`; send {_OF_OTHERS[name]} here", name)
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
    first = max(errors, key=lambda e: e["type"] == "string_too_short")
    said = first["msg"].removeprefix("Invalid JSON: ").removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        advice = "; half of a surrogate pair is no text" if "hex escape" in said else ""
        return InvalidRequest(f"the body is not valid JSON: {said}{advice}")
    if not first["loc"]:
        return InvalidRequest(f"the body must be a JSON object: {said}")
    field = str(first["loc"][0])
    if field in _SHAPES:
        advice = _text_advice(field, [e for e in errors if e["loc"][0] == field])
        return InvalidRequest(advice, field)
    return InvalidRequest(f"`{field}`: {said}", field)


def _text_advice(field: str, errors: list[Any]) -> str:
    kinds = {e["type"] for e in errors}
    item = next((i for e in errors if (i := _item_that_is_no_text(e)) is not None), None)
    if errors[0]["loc"] == (field,) and kinds == {"missing"}:
        return f"`{field}` is missing; send {_SHAPES[field]}"
    if "string_too_short" in kinds:
        place = field if item is None else f"{field}[{item}]"
        return f"`{place}` is an empty string, which has no meaning to embed; leave it out"
    if "too_short" in kinds:
        return f"`{field}` is an empty list; send at least one text"
    if item:  # those before it are texts
        return f"`{field}[{item}]` is no text; `{field}` must be {_SHAPES[field]}"
    return f"`{field}` must be {_SHAPES[field]}"


def _item_that_is_no_text(error: Any) -> int | None:
    if error["type"] not in ("string_type", "string_too_short"):
        return None
    return next((part for part in error["loc"] if isinstance(part, int)), None)
