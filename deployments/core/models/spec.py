"""What there is to know about a model before its weights are read: one frozen record per model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Which side of a retrieval a text stands on, and so which prompt it gets."""

    QUERY = "query"
    DOCUMENT = "document"


class Size(StrEnum):
    """What a request may ask for instead of a model's name."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Pooling(StrEnum):
    """How token vectors become one text vector."""

    MEAN = "mean"
    LAST_TOKEN = "last_token"
    CLS = "cls"


@dataclass(frozen=True)
class Prompts:
    """Text that stands in front of what the caller sent.

    ``query_instruction`` is a template with ``{instruction}`` in it; a model that has one is an
    instruct model, and ``query`` is then unused.
    """

    query: str = ""
    document: str = ""
    query_instruction: str | None = None
    default_instruction: str | None = None


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that every text starts and ends with, also after truncation, and exactly once."""

    first: tuple[int, ...]
    last: tuple[int, ...]


@dataclass(frozen=True)
class PublishedExample:
    """Scores printed on a model card, with the inputs they were computed from.

    ``scores[i][j]`` is ``scale`` × cosine of query ``i`` and document ``j``.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    scale: float
    source: str
    instruction: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the catalog: weights at a pinned revision and how to get their vectors right.

    ``special_tokens`` is None where the tokenizer's own template is right. ``languages`` holds ISO
    639-1 codes; empty means not stated. ``truncatable_dimensions`` are the Matryoshka dimensions
    below ``dimension``. ``max_tokens`` counts special tokens.
    """

    name: str
    repo: str
    revision: str
    backbone: str
    pooling: Pooling
    dimension: int
    max_tokens: int
    size: Size | None = None
    languages: tuple[str, ...] = ()
    prompts: Prompts = Prompts()
    special_tokens: SpecialTokens | None = None
    normalize: bool = True
    lowercase: bool = False
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    truncatable_dimensions: tuple[int, ...] = ()
    licence: str = "unknown"
    weights_sha256: str | None = None
    package: str | None = None
    published_example: PublishedExample | None = None

    @property
    def takes_instruction(self) -> bool:
        """Whether queries carry a task instruction."""
        return self.prompts.query_instruction is not None

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Every output dimension that may be asked for, smallest first."""
        return (*sorted(self.truncatable_dimensions), self.dimension)
