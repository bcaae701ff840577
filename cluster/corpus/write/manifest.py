"""What a folder of vectors is, beside the vectors: whose space, of which files, how far along."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cluster.corpus.errors import JobError
from cluster.corpus.plan.inputs import InputFile, file_digest
from cluster.corpus.settings import Settings
from deployments.core.models.prompts import effective_instruction
from deployments.core.models.space import space_id
from deployments.core.models.spec import ModelSpec, Role
from deployments.core.request import check_dimensions

FILE = "_manifest.json"
_CUT = (
    "dtype text_column id_column keep truncate chunk overlap limit part_mb format input_format"
).split()


@dataclass(frozen=True)
class Identity:
    """Which vectors these are: the model, its space, and what stood in front of each text."""

    model: str
    repo: str
    revision: str
    space_id: str
    role: str
    instruction: str | None
    dimensions: int
    normalized: bool

    def differing(self, other: Mapping[str, Any]) -> list[str]:
        """Returns the fields in which other vectors are not of these; where files lie is none."""
        own = asdict(self)
        own.pop("repo")
        return [name for name, value in own.items() if other.get(name) != value]


@dataclass(frozen=True)
class Counts:
    """What became of the rows, how many texts were cut, and their tokens; of a part or of all.

    With chunks, ``written`` counts chunks and ``documents`` the rows they come from.
    """

    rows: int = 0
    documents: int = 0
    written: int = 0
    rejected: int = 0
    truncated: int = 0
    tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        sums = (getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts))
        return Counts(*sums)


@dataclass(frozen=True)
class Manifest:
    """The manifest of one output folder."""

    identity: Identity
    settings: Mapping[str, Any]
    inputs: Mapping[str, tuple[int, int]]
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    finished: bool = False

    def as_json(self) -> bytes:
        """Returns the file's content."""
        content = {"embedfleet": 1, **asdict(self)}
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Reads a manifest. Raises JobError when it is none of ours."""
        try:
            found = json.loads(data)
            found.pop("embedfleet")
            identity, counts = Identity(**found.pop("identity")), Counts(**found.pop("counts"))
            inputs = {name: tuple(stamp) for name, stamp in found.pop("inputs").items()}
            return cls(identity=identity, counts=counts, inputs=inputs, **found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JobError(f"{FILE} is not a manifest of this program: {error!r}") from error


def identify(spec: ModelSpec, settings: Settings, role: Role | None) -> Identity:
    """Returns which vectors a job makes; ``role`` is the one in the model's name, if any.

    Raises InvalidRequest for an instruction or dimensions that the model cannot honour.
    """
    chosen = settings.role or role or (Role.QUERY if settings.instruction else Role.DOCUMENT)
    dimensions = check_dimensions(spec, settings.dimensions)
    return Identity(
        model=spec.name,
        repo=spec.repo,
        revision=spec.revision,
        space_id=space_id(spec, dimensions),
        role=chosen.value,
        instruction=effective_instruction(spec, chosen, settings.instruction),
        dimensions=dimensions,
        normalized=spec.normalize,
    )


def describe(
    identity: Identity, settings: Settings, files: Iterable[InputFile], carried: Iterable[Any]
) -> Manifest:
    """Returns the manifest of a job that starts. ``carried`` are the Arrow fields of its columns."""
    kept = {name: getattr(settings, name) for name in _CUT}
    inputs = {file.name: (file.size, file.modified) for file in files}
    columns = {field.name: str(field.type) for field in carried}
    return Manifest(identity, {**kept, "keep": list(settings.keep), "columns": columns}, inputs)


def check_same(found: Manifest, wanted: Manifest, output: str, begun: Collection[str]) -> None:
    """Raises JobError unless a job may go on in a folder that another run has begun.

    Other vectors never mix; rows would appear twice if they were cut otherwise, or had changed in
    files that are ``begun`` (see `Output.begun`). New input files are welcome, and mended ones, as
    long as the carried columns stay of their types.
    """
    if differing := wanted.identity.differing(asdict(found.identity)):
        raise JobError(
            f"{output} holds other vectors ({_list(found.identity, wanted.identity, differing)}); "
            "they do not compare with these: choose another OUTPUT"
        )
    other = [n for n in _CUT if found.settings.get(n) != wanted.settings.get(n)]
    if other and begun:
        both = ", ".join(
            f"{n} {found.settings.get(n)!r}, now {wanted.settings.get(n)!r}" for n in other
        )
        raise JobError(
            f"{output} was begun otherwise ({both}): give the same options to finish it, or "
            "choose another OUTPUT"
        )
    if begun:
        _check_types(found, wanted, output)
    begun_inputs = {n: s for n, s in found.inputs.items() if file_digest(n, *s) in begun}
    _check_inputs(begun_inputs, wanted, output)


def _check_types(found: Manifest, wanted: Manifest, output: str) -> None:
    """The manifest of an earlier version does not tell the types."""
    now: Mapping[str, str] = wanted.settings["columns"]
    before = found.settings.get("columns", now)
    differing = [
        f"{n!r} {before.get(n)}, now {kind}" for n, kind in now.items() if before.get(n) != kind
    ]
    if differing:
        raise JobError(
            f"{output} was begun with columns of other types ({', '.join(differing)}): leave out the "
            "files that have come since, or choose another OUTPUT"
        )


def _check_inputs(begun: Mapping[str, tuple[int, int]], wanted: Manifest, output: str) -> None:
    for name, stamp in begun.items():
        if name not in wanted.inputs:
            raise JobError(f"{output} was begun with {name}, which is gone: choose another OUTPUT")
        if wanted.inputs[name] != stamp:
            raise JobError(f"{name} has changed since {output} was begun: choose another OUTPUT")


def _list(found: Identity, wanted: Identity, names: list[str]) -> str:
    return ", ".join(f"{n} {getattr(found, n)!r}, not {getattr(wanted, n)!r}" for n in names)
