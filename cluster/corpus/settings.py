"""The settings of a corpus job: input, output, and which vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from cluster.corpus.errors import JobError
from deployments.core.models.spec import GIVE_VECTORS, Kind, Role

Dtype = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
Sink = Literal["parquet", "lance"]
WORKER_CPUS = 0.25  # CPUs that each worker reserves on its node
JOB_SUFFIX = ".job"  # OUTPUT.job holds the rejects and the manifest of OUTPUT
_RESERVED = frozenset({"id", "embedding", "document_id", "chunk", "start", "stop"})
_RESERVED_OF_SCORES = frozenset({"id", "score"})


@dataclass(frozen=True)
class Pairs:
    """What makes a job one of scores: a reranker reads the text of each row together with its query.

    ``raw_scores`` asks for logits instead of the scores of the model's card.
    """

    query_column: str
    raw_scores: bool = False


@dataclass(frozen=True)
class Settings:
    """One job that encodes texts, or, with ``pairs``, one that scores them (see `ScoreSettings`).

    ``input`` is a file, a folder or a glob, ``output`` a folder; either may be a URI of a pyarrow
    file system. ``chunk`` and ``overlap`` count tokens of the text, without prompt and special
    tokens. ``dtype`` is how vectors are written, as ``output_dtype`` over HTTP. ``part_mb`` is the text
    in one output file, in megabytes; a job that is killed loses at most that much work in each part it
    was encoding.
    """

    input: str
    output: str
    model: str
    text_column: str = "text"
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    role: Role | None = None
    instruction: str | None = None
    dimensions: int | None = None
    dtype: Dtype = "float32"
    limit: int | None = None
    truncate: bool = False
    chunk: int | None = None
    overlap: int = 0
    part_mb: float = 2.0
    format: Sink = "parquet"
    input_format: str | None = None
    delimiter: str | None = None
    pairs: Pairs | None = None

    def __post_init__(self) -> None:
        """Raises JobError for invalid or contradicting values. Removes duplicates from ``keep``."""
        object.__setattr__(self, "keep", tuple(dict.fromkeys(self.keep)))
        if self.dtype not in get_args(Dtype):
            raise JobError(f"--dtype must be one of {', '.join(get_args(Dtype))}, not {self.dtype}")
        if self.pairs is not None and self._says_which_vectors:
            raise JobError(
                "scores have no role, dimensions, dtype or chunks: leave these settings out"
            )
        if self.chunk is not None and self.truncate:
            raise JobError("--chunk and --truncate cannot be combined: drop one")
        for name, value in (
            ("limit", self.limit),
            ("chunk", self.chunk),
            ("part-mb", self.part_mb),
        ):
            if value is not None and not 0 < value < math.inf:
                raise JobError(f"--{name} must be a finite number above 0, not {value}")
        if self.chunk is not None and not 0 <= self.overlap < self.chunk:
            raise JobError(f"--overlap {self.overlap} must be less than --chunk {self.chunk}")
        if self.overlap and self.chunk is None:
            raise JobError("--overlap needs --chunk")
        if self.delimiter is not None and not (
            len(self.delimiter) == 1 and self.delimiter.isascii() and self.delimiter not in '\n\r"'
        ):
            raise JobError(f"--delimiter must be one ASCII character, not {self.delimiter!r}")
        if taken := (_RESERVED_OF_SCORES if self.pairs else _RESERVED) & {*self.keep}:
            raise JobError(
                f"--keep {', '.join(sorted(taken))}: the output already has a column of that name; "
                "rename it in the input"
            )

    @property
    def _says_which_vectors(self) -> bool:
        options = (self.role, self.dimensions, self.chunk)
        return self.dtype != "float32" or any(option is not None for option in options)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of models that can do it."""
        return (Kind.RERANKER,) if self.pairs else GIVE_VECTORS

    @property
    def text_columns(self) -> Mapping[str, str]:
        """The columns of texts, by the option that names each."""
        if self.pairs is None:
            return {"--text-column": self.text_column}
        return {"--query-column": self.pairs.query_column, "--document-column": self.text_column}

    @property
    def part_bytes(self) -> int:
        """The text of one part, in bytes."""
        return max(1, int(self.part_mb * 1_000_000))

    @property
    def columns(self) -> tuple[str, ...]:
        """The input's columns that the output carries, the id column first if there is one."""
        ids = (self.id_column,) if self.id_column else ()
        return (*ids, *(c for c in self.keep if c != self.id_column))


@dataclass(frozen=True)
class ScoreSettings:
    """One job that scores pairs of texts with a reranker. Fields are as in `Settings`.

    ``instruction`` is for the queries of rerankers that take one. With ``truncate``, pairs over the
    model's limit lose tokens of the longer text first. ``raw_scores`` asks for logits, as over HTTP.
    """

    input: str
    output: str
    model: str
    query_column: str = "query"
    document_column: str = "document"
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    instruction: str | None = None
    raw_scores: bool = False
    limit: int | None = None
    truncate: bool = False
    part_mb: float = 2.0
    format: Sink = "parquet"
    input_format: str | None = None
    delimiter: str | None = None

    def as_job(self) -> Settings:
        """Returns the job. Raises JobError for invalid or contradicting values."""
        if self.query_column == self.document_column:
            raise JobError(
                f"--query-column and --document-column are both {self.query_column!r}: each text needs a "
                "column of its own"
            )
        return Settings(
            input=self.input,
            output=self.output,
            model=self.model,
            text_column=self.document_column,
            id_column=self.id_column,
            keep=self.keep,
            instruction=self.instruction,
            limit=self.limit,
            truncate=self.truncate,
            part_mb=self.part_mb,
            format=self.format,
            input_format=self.input_format,
            delimiter=self.delimiter,
            pairs=Pairs(self.query_column, self.raw_scores),
        )
