"""The manifest of an output folder: which vectors it holds, from which files, and how many."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from cluster.corpus.errors import JobError
from cluster.corpus.formats.files import InputFile, file_digest
from cluster.corpus.settings import Settings
from cluster.corpus.write.parquet import SPARSE_COLUMNS
from deployments.core.errors import InvalidRequest
from deployments.core.models.prompts import effective_instruction
from deployments.core.models.space import space_id
from deployments.core.models.spec import Kind, ModelSpec, Role
from deployments.core.quantization import OutputDtype, byte_range
from deployments.core.request import check_dimensions

# the settings that decide what a part holds
_PART_SETTINGS = (
    "dtype text_column id_column keep truncate chunk overlap limit part_mb format input_format delimiter"
).split()
# the largest component that a byte holds, if vectors are written as bytes; the least is its negative
_RANGE = "byte_range"
_PAIRS = "pairs"  # if the job is one of scores; they have no role, and this instead
PAIR = "pair"


@dataclass(frozen=True)
class Identity:
    """Which vectors these are: the model, its space, and the prompt of each text."""

    model: str
    repo: str
    revision: str
    space_id: str
    role: str
    instruction: str | None
    dimensions: int
    normalized: bool

    def differing(self, other: Identity) -> list[str]:
        """Returns the fields that differ, except ``repo``: where the model came from does not matter."""
        names = (field.name for field in fields(Identity) if field.name != "repo")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class Counts:
    """What became of the rows of a part or of a corpus.

    ``documents`` counts the rows that were encoded, ``written`` the vectors: one for each chunk.
    ``truncated`` counts the texts that were cut, ``tokens`` all tokens that were encoded, ``reasons`` the
    rejected rows by `reject_kind`.
    """

    rows: int = 0
    documents: int = 0
    written: int = 0
    rejected: int = 0
    truncated: int = 0
    tokens: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        sums: dict[str, int] = {n: getattr(self, n) + getattr(other, n) for n in _NUMBERS}
        reasons = Counter(self.reasons)
        reasons.update(other.reasons)  # unlike `+`, it keeps what is below zero
        return Counts(**sums, reasons={why: count for why, count in reasons.items() if count})

    def minus(self, other: Counts) -> Counts:
        """Returns what has to be added to ``other`` to get this."""
        negative: dict[str, int] = {name: -getattr(other, name) for name in _NUMBERS}
        reasons = {why: -count for why, count in other.reasons.items()}
        return self + Counts(**negative, reasons=reasons)


_NUMBERS = [field.name for field in fields(Counts) if field.name != "reasons"]


class Source(NamedTuple):
    """One state of an input file: its name below the corpus, its bytes, its time in nanoseconds."""

    name: str
    size: int
    modified: int

    @classmethod
    def of(cls, file: InputFile) -> Source:
        """Returns the state in which a file was found."""
        return cls(file.name, file.size, file.modified)


@dataclass(frozen=True)
class PartRecord:
    """What the metadata of a part's files say about it: enough to write the manifest again."""

    identity: Identity
    settings: Mapping[str, Any]
    source: Source
    counts: Counts

    def as_json(self) -> bytes:
        """Returns the metadata, with the fields of the identity at the top."""
        rest = {"counts": asdict(self.counts), "settings": self.settings, "source": self.source}
        return json.dumps({**asdict(self.identity), **rest}).encode()

    @classmethod
    def from_json(cls, data: bytes | None) -> PartRecord | None:
        """Reads the metadata; None if another program wrote them."""
        try:
            content = json.loads(data or b"")
            counts, source = Counts(**content.pop("counts")), Source(*content.pop("source"))
            settings = content.pop("settings")
            return cls(Identity(**content), settings, source, counts)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class Manifest:
    """The manifest of one output folder."""

    identity: Identity
    settings: Mapping[str, Any]
    inputs: Mapping[str, tuple[int, int]]
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    finished: bool = False

    @property
    def are_scores(self) -> bool:
        """Whether the output holds scores and no vectors."""
        return self.identity.role == PAIR

    def as_json(self) -> bytes:
        """Returns the file's content."""
        content = {"embedfleet": 1, **asdict(self)}
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest | None:
        """Reads a manifest; None if it is damaged, or not one of this program."""
        try:
            content = json.loads(data)
            content.pop("embedfleet")
            identity, counts = Identity(**content.pop("identity")), Counts(**content.pop("counts"))
            inputs = {name: (size, time) for name, (size, time) in content.pop("inputs").items()}
            dict(content["settings"]["columns"])
            return cls(identity=identity, counts=counts, inputs=inputs, **content)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    @classmethod
    def of_parts(cls, records: Iterable[PartRecord]) -> Manifest | None:
        """Returns the manifest of these parts, whose total counts are unknown; None without parts."""
        records = list(records)
        if not records:
            return None
        inputs = {name: (size, time) for name, size, time in (r.source for r in records)}
        return cls(records[0].identity, records[0].settings, inputs)


def identify(spec: ModelSpec, settings: Settings, role: Role | None) -> Identity:
    """Returns which vectors a job makes. ``role`` is the one in the model's name, if any.

    Raises InvalidRequest if the model does not support the instruction, the dimensions or the type of
    numbers, or if a kept column has the name of one of its own.
    """
    if settings.pairs is not None:
        return _identity_of_scores(spec, settings, role)
    if spec.kind is Kind.SPARSE and (taken := SPARSE_COLUMNS & {*settings.keep}):
        raise InvalidRequest(
            f"--keep {min(taken)}: sparse vectors have a column of that name; rename the input's",
            "keep",
        )
    dtype = OutputDtype(settings.dtype)
    return identity_of(
        spec, settings.role or role, settings.instruction, settings.dimensions, dtype
    )


def identity_of(
    spec: ModelSpec,
    role: Role | None,
    instruction: str | None,
    dimensions: int | None,
    dtype: OutputDtype = OutputDtype.FLOAT32,
) -> Identity:
    """As `identify`, of what is asked for; without a ``role``, an instruction makes texts queries."""
    chosen = role or (Role.QUERY if instruction else Role.DOCUMENT)
    dimensions = check_dimensions(spec, dimensions)
    _check_dtype(spec, dtype)
    return Identity(
        model=spec.name,
        repo=spec.repo,
        revision=spec.revision,
        space_id=space_id(spec, dimensions) + dtype.space_suffix,
        role=chosen.value,
        instruction=effective_instruction(spec, chosen, instruction),
        dimensions=dimensions,
        normalized=spec.normalize,
    )


def _identity_of_scores(spec: ModelSpec, settings: Settings, role: Role | None) -> Identity:
    if role is not None:
        raise InvalidRequest(
            f'--model must not end in "-{role}" here: a reranker reads both texts', "model"
        )
    return Identity(
        model=spec.name,
        repo=spec.repo,
        revision=spec.revision,
        space_id=space_id(spec),
        role=PAIR,
        instruction=effective_instruction(spec, Role.QUERY, settings.instruction),
        dimensions=1,
        normalized=False,
    )


def _check_dtype(spec: ModelSpec, dtype: OutputDtype) -> None:
    if spec.kind is Kind.SPARSE and dtype.space_suffix:
        raise InvalidRequest(
            f"{spec.name} gives sparse vectors, whose values are not written as {dtype}: choose float32 "
            "or float16",
            "output_dtype",
        )
    if dtype.needs_range and not spec.normalize:
        raise InvalidRequest(
            f"{dtype} has a fixed range that suits vectors of length 1, and those of {spec.name} are not "
            "normalised: choose float16, binary or ubinary",
            "output_dtype",
        )


def new_manifest(
    identity: Identity, settings: Settings, files: Iterable[InputFile], carried: Iterable[Any]
) -> Manifest:
    """Returns the manifest of a new job. ``carried`` are the Arrow fields of the carried columns."""
    kept = {name: getattr(settings, name) for name in _PART_SETTINGS}
    if settings.pairs is not None:
        kept[_PAIRS] = asdict(settings.pairs)
    if OutputDtype(settings.dtype).needs_range:
        kept[_RANGE] = byte_range(identity.dimensions)
    inputs = {file.name: (file.size, file.modified) for file in files}
    columns = {field.name: str(field.type) for field in carried}
    return Manifest(identity, {**kept, "keep": list(settings.keep), "columns": columns}, inputs)


def check_resumable(
    earlier: Manifest, wanted: Manifest, output: str, committed: Collection[str]
) -> None:
    """Raises JobError unless a job may continue in a folder that an earlier run has started.

    Different vectors are never mixed. Rows would appear twice if they were cut into other parts, or if
    files that are ``committed`` (see `Output.committed_files`) had changed. New input files are fine,
    and so are corrected ones, as long as the carried columns keep their types.
    """
    if differing := wanted.identity.differing(earlier.identity):
        differences = [_difference(earlier.identity, wanted.identity, name) for name in differing]
        if (dtype := earlier.settings.get("dtype")) != wanted.settings["dtype"]:
            differences.append(f"dtype {dtype!r}, not {wanted.settings['dtype']!r}")
        raise JobError(
            f"{output} holds {'scores' if earlier.are_scores else 'vectors'} of another kind "
            f"({', '.join(differences)}), which cannot be compared with those of this job: choose "
            "another OUTPUT"
        )
    other = _other_settings(earlier, wanted)
    if other and committed:
        both = ", ".join(
            f"{n} {earlier.settings.get(n)!r}, now {wanted.settings.get(n)!r}" for n in other
        )
        raise JobError(
            f"{output} was started with other options ({both}): give the same options to finish it, or "
            "choose another OUTPUT"
        )
    if committed:
        _check_types(earlier, wanted, output)
    digests = {file_digest(name, *stamp): name for name, stamp in earlier.inputs.items()}
    if unknown := sorted({*committed} - {*digests}):
        raise JobError(
            f"{output} holds parts of a file that its manifest does not list (part-{unknown[0]}-…): "
            "choose another OUTPUT"
        )
    inputs = {digests[digest]: earlier.inputs[digests[digest]] for digest in committed}
    _check_inputs(inputs, wanted, output)


def _other_settings(earlier: Manifest, wanted: Manifest) -> list[str]:
    names = (*_PART_SETTINGS, _RANGE, _PAIRS)
    return [n for n in names if earlier.settings.get(n) != wanted.settings.get(n)]


def _check_types(earlier: Manifest, wanted: Manifest, output: str) -> None:
    now: Mapping[str, str] = wanted.settings["columns"]
    before = earlier.settings["columns"]
    differing = [
        f"{n!r} {before.get(n)}, now {kind}" for n, kind in now.items() if before.get(n) != kind
    ]
    if differing:
        raise JobError(
            f"{output} was started with columns of other types ({', '.join(differing)}): leave out the "
            "files that were added since, or choose another OUTPUT"
        )


def _check_inputs(committed: Mapping[str, tuple[int, int]], wanted: Manifest, output: str) -> None:
    for name, stamp in committed.items():
        if name not in wanted.inputs:
            raise JobError(
                f"{output} holds vectors of {name}, which is gone: choose another OUTPUT"
            )
        if wanted.inputs[name] != stamp:
            raise JobError(
                f"{name} has changed since vectors of it were written to {output}: choose another OUTPUT"
            )


def _difference(earlier: Identity, wanted: Identity, name: str) -> str:
    return f"{name} {getattr(earlier, name)!r}, not {getattr(wanted, name)!r}"
