"""Divides a batch into parts, and puts their results together.

A part is the unit of resuming: its results are there as a whole or not at all. Each of its results is a
line of the output file behind a ``+``, or of the error file behind a ``-``.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Self

import numpy as np

from deployments.batch_runner.lines import Fault, Line, fault_line, raw_lines, read_line
from deployments.batches.states import (
    BATCH_PREFIX,
    FILE_PREFIX,
    Batch,
    Counts,
    Problem,
    derived_id,
)
from deployments.batches.store import Store, Upload

DONE, FAILED = b"+", b"-"
OUTPUT_PURPOSE = "batch_output"
# what a kill costs at most, and what the results of a part take of memory: vectors of 4,096 numbers
# are 50 kB each as JSON
_MOST_LINES, _MOST_TEXTS, _MOST_BYTES = 256, 2_048, 1_000_000
_MOST_REQUESTS = 50_000  # as OpenAI allows
_MOST_PROBLEMS = 20


class Refused(Exception):
    """A batch that cannot be run, and why."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems)
        self.problems = problems


@dataclass(frozen=True)
class Part:
    """Lines of the input: ``lines`` of them, the first at byte ``offset`` with number ``first``."""

    offset: int
    first: int
    lines: int = 0


@dataclass(frozen=True)
class Plan:
    """The parts of a batch, and how many of its lines are not blank. No line over ``longest`` bytes is
    read.
    """

    parts: tuple[Part, ...]
    total: int
    longest: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(**{**content, "parts": tuple(Part(**part) for part in content["parts"])})


def make_plan(store: Store, batch: Batch, longest: int) -> Plan:
    """Reads the input once. Raises Refused if it is empty, has more requests than OpenAI's batches
    may have, or two lines have one custom_id.
    """
    parts: list[Part] = []
    ids = bytearray()
    total = lines = texts = size = offset = 0
    with closing(store.open(batch.input_file_id)) as file:
        for number, length, raw in raw_lines(file, 1, longest):
            line = read_line(raw, number, batch.endpoint)
            texts += line.texts if line else 0
            lines, size = lines + 1, size + length
            if not parts or lines > _MOST_LINES or texts > _MOST_TEXTS or size > _MOST_BYTES:
                parts.append(Part(offset, number))
                lines, size, texts = 1, length, line.texts if line else 0
            parts[-1] = replace(parts[-1], lines=lines)
            offset += length
            total += line is not None
            if line and line.custom_id is not None:
                ids += _digest(line.custom_id)
            if total > _MOST_REQUESTS:
                raise Refused(
                    Problem(
                        "too_many_requests",
                        f"the input file has over {_MOST_REQUESTS} requests; split it",
                    )
                )
    if not total:
        raise Refused(Problem("empty_file", "the input file has no lines"))
    digests, counts = np.unique(np.frombuffer(ids, "<u8"), return_counts=True)
    if len(repeated := digests[counts > 1]):
        _refuse_repeated(store, batch, longest, set(repeated.tolist()))
    return Plan(tuple(parts), total, longest)


def _refuse_repeated(store: Store, batch: Batch, longest: int, digests: set[int]) -> None:
    """Raises Refused unless the ids of those digests are distinct after all."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    with closing(store.open(batch.input_file_id)) as file:
        for number, _, raw in raw_lines(file, 1, longest):
            line = read_line(raw, number, batch.endpoint)
            custom_id = line.custom_id if line else None
            if custom_id and int.from_bytes(_digest(custom_id), "little") in digests:
                places[custom_id].append(number)
    problems = (
        Problem(
            "duplicate_custom_id",
            f"line {number} has the `custom_id` {custom_id!r} of line {first}; make each unique",
            number,
            "custom_id",
        )
        for custom_id, (first, *others) in places.items()
        for number in others
    )
    if shown := list(islice(problems, _MOST_PROBLEMS)):
        raise Refused(*shown)


def _digest(custom_id: str) -> bytes:
    return hashlib.blake2b(custom_id.encode(), digest_size=8).digest()


def lines_of(store: Store, batch: Batch, plan: Plan, part: Part) -> Iterator[Line]:
    """Yields the lines of a part that are not blank."""
    with closing(store.open(batch.input_file_id)) as file:
        file.seek(part.offset)
        for number, _, raw in raw_lines(file, part.first, plan.longest):
            if number >= part.first + part.lines:
                return
            if (line := read_line(raw, number, batch.endpoint)) is not None:
                yield line


def assemble(  # noqa: PLR0913, PLR0917
    store: Store, owner: str, batch: Batch, plan: Plan, unfinished: Fault, now: float
) -> Batch:
    """Returns the batch with its output and error files, which it writes.

    Lines of parts that are not done get the fault ``unfinished``. May be repeated.
    """
    files = {
        kind: store.upload(now, derived_id(FILE_PREFIX, batch.id, BATCH_PREFIX, what))
        for kind, what in ((DONE, "output"), (FAILED, "errors"))
    }
    lines: Counter[bytes] = Counter()
    try:
        for result in _results(store, batch, plan, unfinished):
            files[result[:1]].write(result[1:])
            lines[result[:1]] += 1
    except BaseException:
        for file in files.values():
            file.drop()
        raise
    return replace(
        batch,
        request_counts=Counts(plan.total, lines[DONE], lines[FAILED]),
        output_file_id=_kept(files[DONE], owner, batch, "output", now),
        error_file_id=_kept(files[FAILED], owner, batch, "errors", now),
    )


def _results(store: Store, batch: Batch, plan: Plan, unfinished: Fault) -> Iterator[bytes]:
    done = set(store.parts(batch.id))
    for number, part in enumerate(plan.parts):
        if number in done:
            with closing(store.open_part(batch.id, number)) as stream:
                yield from io.BufferedReader(stream, _MOST_BYTES)
        else:
            for line in lines_of(store, batch, plan, part):
                yield FAILED + fault_line(batch.id, line, line.fault or unfinished)


def _kept(file: Upload, owner: str, batch: Batch, what: str, now: float) -> str | None:
    if not file.bytes:
        file.drop()
        return None
    file.keep(owner, f"{batch.id}_{what}.jsonl", OUTPUT_PURPOSE, now, batch.output_ttl_s)
    return file.id
