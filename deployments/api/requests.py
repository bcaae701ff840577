"""Typed request bodies: OpenAI's embeddings request with our own fields, and the scoring requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from deployments.api.body_errors import body_error, refuse_misleading
from deployments.core.errors import InvalidRequest, SpaceMismatch
from deployments.core.lane import Lane
from deployments.core.models.spec import Kind, Role, Truncation
from deployments.core.quantization import OutputDtype
from deployments.core.routing.facts import Aim, RequestFacts

Text = Annotated[str, Field(min_length=1)]
# bounded, since a name is repeated in errors and an instruction is put in front of each text
Name = Annotated[str, Field(min_length=1, max_length=512)]
_MAX_INSTRUCTION = 4_096
# only one error is answered: to collect one for each of a million wrong items would take a minute
NOT_EMPTY = Field(min_length=1, fail_fast=True)
Format = Literal["float", "base64", "sparse"]
Flag = Annotated[
    bool, BeforeValidator(lambda value: False if value is None else value, bool | None)
]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], NOT_EMPTY]
ROLES = {
    "query": Role.QUERY,
    "document": Role.DOCUMENT,
    "passage": Role.DOCUMENT,
    "search_query": Role.QUERY,
    "search_document": Role.DOCUMENT,
}


class Body(BaseModel):
    """A JSON object. Unknown fields are accepted, since OpenAI's clients send them, unless they resemble
    a known field or would change vectors on another server.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    texts_field: ClassVar[str] = "documents"

    @classmethod
    def as_refusal(cls, error: ValidationError, body: bytes) -> InvalidRequest:
        """Returns the answer to a body that is not of this kind."""
        return body_error(error, cls, body)

    @classmethod
    def refuse_extra(cls, extra: Mapping[str, Any]) -> None:
        """Raises InvalidRequest for a field that is not of this body and must not be ignored."""
        refuse_misleading(extra, cls.model_fields)


class ModelBody(Body):
    """The fields of every request that a model answers."""

    model: Name | None = Field(
        None,
        description="Name, Hugging Face id, size, space or `auto`; -query or -document may follow it",
    )
    instruction: str | None = Field(
        None,
        min_length=1,
        max_length=_MAX_INSTRUCTION,
        description="One-sentence task for the queries of an instruct model",
    )
    truncate: bool | None = Field(
        None, description="Cut texts that are over the model's limit instead of refusing them"
    )
    normalize: bool | None = Field(
        None, description="L2-normalise the vectors; by default as the model does"
    )
    space: Name | None = Field(
        None, description="Answer in this embedding space, or refuse with 409"
    )
    aim: Aim | None = Field(None, strict=False, description="What `auto` or a space optimises for")
    max_latency_ms: float | None = Field(
        None,
        gt=0,
        description="`auto` takes the best model that is expected to answer in this time",
    )
    priority: Lane = Field(
        Lane.ONLINE, strict=False, description="`offline` requests wait for `online` ones"
    )
    user: str | None = Field(None, description="Accepted for OpenAI's clients and ignored")

    @field_validator("priority", mode="before", json_schema_input_type=Lane | None)
    @classmethod
    def _null_means_online(cls, value: Any) -> Any:
        return Lane.ONLINE if value is None else value

    def cuts(self, default: bool) -> bool:
        """Whether texts that are too long may be cut; ``default`` is the config's answer."""
        return default if self.truncate is None else self.truncate

    def facts(self, required_space: str | None, truncate: bool) -> RequestFacts:
        """Returns what a model is chosen by; ``required_space`` is the header's.

        Raises InvalidRequest if header and body require different spaces.
        """
        if required_space and self.space and required_space != self.space:
            raise InvalidRequest(
                f"the header x-require-space is {required_space}, but `space` is {self.space}; "
                "drop one",
                "space",
            )
        return RequestFacts(
            requested=self.model,
            truncate=self.cuts(truncate),
            instruction=self.instruction,
            space=self.space or required_space or None,  # the header may be empty
            aim=self.aim,
            max_latency_ms=self.max_latency_ms,
            lane=self.priority,
        )


class EmbeddingRequest(ModelBody):
    """``POST /v1/embeddings``."""

    texts_field: ClassVar[str] = "input"

    input: (
        Text | Annotated[list[Text], NOT_EMPTY] | TokenIds | Annotated[list[TokenIds], NOT_EMPTY]
    ) = Field(description="A text or a list of texts; token ids only together with `tokenizer`")
    encoding_format: Format = Field(
        "float",
        description="How a vector is written; `sparse` asks for indices and values of a sparse model",
    )
    dimensions: int | None = Field(
        None, ge=1, description="Fewer than the model's own only for Matryoshka models"
    )
    input_type: Role | None = Field(None, description="Which prompt the texts get")
    output_dtype: OutputDtype = Field(
        OutputDtype.FLOAT32,
        description="How the numbers are written; int8, uint8, binary and ubinary are other spaces",
    )
    tokenizer: str | None = Field(
        None, max_length=512, description="The model whose tokenizer made the ids in `input`"
    )

    @field_validator("encoding_format", mode="before", json_schema_input_type=Format | None)
    @classmethod
    def _null_means_float(cls, value: Any) -> Any:
        return "float" if value is None else value

    @field_validator("output_dtype", mode="before", json_schema_input_type=OutputDtype | None)
    @classmethod
    def _output_dtype(cls, value: Any) -> Any:
        if value in (None, "float"):  # Voyage's clients send the latter
            return OutputDtype.FLOAT32
        if isinstance(value, str) and value in list(OutputDtype):
            return OutputDtype(value)
        raise ValueError(f"must be one of {', '.join(map(repr, map(str, OutputDtype)))}")

    def facts(self, required_space: str | None, truncate: bool) -> RequestFacts:
        """As for all requests; the required space has to be one of this ``output_dtype``.

        Raises SpaceMismatch if it is not, InvalidRequest for what no sparse vector can be.
        """
        facts = super().facts(required_space, truncate)
        if self.is_sparse:
            self._refuse_dense_fields()
            facts = replace(facts, kinds=(Kind.SPARSE,))
        if facts.space is None:
            return facts
        space, plus, written_as = facts.space.partition("+")
        if plus + written_as != self.output_dtype.space_suffix:
            raise SpaceMismatch(
                f"the required space {facts.space} holds {written_as or 'float'} vectors, but "
                f"`output_dtype` is {self.output_dtype}; ask for both alike",
                "space",
            )
        return replace(facts, space=space)

    @field_validator("input_type", mode="before")
    @classmethod
    def _role(cls, value: Any) -> Any:
        if value is None or isinstance(value, Role):
            return value
        if isinstance(value, str) and value in ROLES:
            return ROLES[value]
        raise ValueError(f"must be one of {', '.join(map(repr, ROLES))}")

    @property
    def is_sparse(self) -> bool:
        """Whether sparse vectors are asked for."""
        return self.encoding_format == "sparse"

    def _refuse_dense_fields(self) -> None:
        wrong = {
            "dimensions": self.dimensions is not None,
            "normalize": bool(self.normalize),
            "output_dtype": self.output_dtype is not OutputDtype.FLOAT32,
        }
        for field in (field for field, is_wrong in wrong.items() if is_wrong):
            raise InvalidRequest(
                f"`{field}` is for dense vectors, and `encoding_format` asks for sparse ones, which come "
                f"as the model gives them; leave `{field}` out",
                field,
            )

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """The inputs as a list, whichever of OpenAI's four shapes was sent."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return self.input


class SimilarityRequest(ModelBody):
    """``POST /v1/similarity``: one or several queries against documents."""

    query: Text | Annotated[list[Text], NOT_EMPTY]
    documents: Text | Annotated[list[Text], NOT_EMPTY]
    return_embeddings: Flag = Field(False, description="Return the vectors as well")

    @property
    def queries(self) -> list[str]:
        """The queries as a list."""
        return [self.query] if isinstance(self.query, str) else self.query

    @property
    def texts(self) -> list[str]:
        """The documents as a list."""
        return [self.documents] if isinstance(self.documents, str) else self.documents


class RerankDocument(Body):
    """A document as an object, the other shape that rerank clients send."""

    text: Text


class Prefilter(BaseModel):
    """The first of two stages: which documents a reranker reads at all."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Name | None = Field(None, description="The model whose cosines choose the documents")
    top: int = Field(50, ge=1, description="How many documents the reranker reads")


class RerankRequest(ModelBody):
    """``POST /v1/rerank``: documents to be sorted by their score with one query."""

    query: Text
    documents: Annotated[list[Text | RerankDocument], NOT_EMPTY]
    top_n: int | None = Field(None, ge=1, description="How many of the best documents to return")
    return_documents: Flag = False
    truncate: bool | Truncation | None = Field(  # type: ignore[assignment]
        None,
        description="Cut what is over the model's limit: of a pair the longer text (`true`, "
        "`longest_first`), or the document alone (`only_second`)",
    )
    chunk: Flag = Field(
        False, description="Score a document over the model's limit by the best of its parts"
    )
    raw_scores: Flag = Field(
        False, description="A reranker's logits instead of its published scores"
    )
    prefilter: Prefilter | None = Field(
        None, description="Let a reranker read only the documents with the best cosines"
    )

    @field_validator("chunk")
    @classmethod
    def _chunks_or_cuts(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("truncate"):
            raise ValueError(
                "scores all of a document, which `truncate` would cut; drop one of them"
            )
        return value

    @property
    def needs_reranker(self) -> bool:
        """Whether only a reranker can honour the request."""
        return self.chunk or self.raw_scores or self.prefilter is not None

    @property
    def truncation(self) -> Truncation:
        """Which text of a pair is cut, if one may be."""
        named = self.truncate
        return named if isinstance(named, Truncation) else Truncation.LONGEST_FIRST

    def cuts(self, default: bool) -> bool:
        """Whether texts that are too long may be cut; chunks never are too long."""
        return not self.chunk and (default if self.truncate is None else bool(self.truncate))

    @property
    def queries(self) -> list[str]:
        """The query as a list."""
        return [self.query]

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [d if isinstance(d, str) else d.text for d in self.documents]


BodyT = TypeVar("BodyT", bound=Body)


def parse(kind: type[BodyT], body: bytes) -> BodyT:
    """Returns the typed body. Raises InvalidRequest that names the field and the fix."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise kind.as_refusal(error, body) from None
    if request.model_extra:
        kind.refuse_extra(request.model_extra)
    return request
