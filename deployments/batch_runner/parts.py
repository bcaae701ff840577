"""Divides a batch into parts, and puts their results together.

A part is the unit of resuming: its results are there as a whole or not at all. Each of its results is a
line of the output file behind a ``+``, or of the error file behind a ``-``.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from deployments.batch_runner.lines import Line, fault_line, raw_lines, read_line
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
_MOST_INPUT_LINES = (
    2 * _MOST_REQUESTS
)  # blank ones included: millions would hold the GIL for minutes
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
    ids, begin = _CustomIds(), Part(0, 1)
    total = lines = texts = size = offset = 0
    with closing(_input(store, batch)) as file:
        for number, length, raw in raw_lines(file, 1, longest):
            line = read_line(raw, number, batch.endpoint)
            more = line.texts if line else 0
            is_full = (
                lines == _MOST_LINES or texts + more > _MOST_TEXTS or size + length > _MOST_BYTES
            )
            if lines and is_full:
                parts.append(replace(begin, lines=lines))
                begin, lines, texts, size = Part(offset, number), 0, 0, 0
            lines, texts, size, offset = lines + 1, texts + more, size + length, offset + length
            total += line is not None
            if line and line.custom_id is not None:
                ids.add(line.custom_id, number)
            if total > _MOST_REQUESTS or number > _MOST_INPUT_LINES:
                raise Refused(_too_many_requests())
    if not total:
        raise Refused(Problem("empty_file", "the input file has no lines"))
    parts.append(replace(begin, lines=lines))
    if ids.problems:
        raise Refused(*ids.problems)
    return Plan(tuple(parts), total, longest)


def _too_many_requests() -> Problem:
    message = (
        f"the input file has over {_MOST_REQUESTS} requests, or {_MOST_INPUT_LINES} lines with blank "
        "ones; split it"
    )
    return Problem("too_many_requests", message)


class _CustomIds:
    """The ids of an input, and the lines on which one is there again. Long ids take no more memory."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._first: dict[bytes, int] = {}

    def add(self, custom_id: str, number: int) -> None:
        """The line of this number has the id."""
        digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        first = self._first.setdefault(digest, number)
        if first != number and len(self.problems) < _MOST_PROBLEMS:
            message = (
                f"line {number} has the `custom_id` {custom_id!r} of line {first}; make each unique"
            )
            self.problems.append(Problem("duplicate_custom_id", message, "custom_id", number))


def lines_of(store: Store, batch: Batch, plan: Plan, part: Part) -> Iterator[Line]:
    """Yields the lines of a part that are not blank."""
    with closing(_input(store, batch)) as file:
        file.seek(part.offset)
        for number, _, raw in raw_lines(file, part.first, plan.longest):
            if number >= part.first + part.lines:
                return
            if (line := read_line(raw, number, batch.endpoint)) is not None:
                yield line


def _input(store: Store, batch: Batch) -> Any:
    return store.open(store.file(batch.owner, batch.input_file_id))


def assemble(  # noqa: PLR0913, PLR0917
    store: Store,
    batch: Batch,
    plan: Plan,
    unfinished: Problem,
    now: float,
    check: Callable[[], None],
) -> Batch:
    """Returns the batch with its output and error files, which it writes.

    Lines of parts that are not done get the fault ``unfinished``. May be repeated: the files of each
    attempt replace those of the one before. Raises what ``check`` raises, which is called before that.
    """
    files = {
        kind: store.upload(derived_id(FILE_PREFIX, batch.id, BATCH_PREFIX, what))
        for kind, what in ((DONE, "output"), (FAILED, "errors"))
    }
    lines: Counter[bytes] = Counter()
    try:
        for result in _results(store, batch, plan, unfinished):
            files[result[:1]].write(result[1:])
            lines[result[:1]] += 1
        return replace(
            batch,
            request_counts=Counts(plan.total, lines[DONE], lines[FAILED]),
            output_file_id=_kept(files[DONE], batch, "output", now, check),
            error_file_id=_kept(files[FAILED], batch, "errors", now, check),
        )
    finally:
        for file in files.values():
            file.drop()


def _results(store: Store, batch: Batch, plan: Plan, unfinished: Problem) -> Iterator[bytes]:
    done = set(store.parts(batch.id))
    for number, part in enumerate(plan.parts):
        if number in done:
            with closing(store.open_part(batch.id, number)) as stream:
                yield from io.BufferedReader(stream, _MOST_BYTES)
        else:
            for line in lines_of(store, batch, plan, part):
                yield FAILED + fault_line(batch.id, line, line.fault or unfinished)


def _kept(
    file: Upload, batch: Batch, what: str, now: float, check: Callable[[], None]
) -> str | None:
    if not file.bytes:
        return None
    check()
    name = f"{batch.id}_{what}.jsonl"
    return file.keep(batch.owner, name, OUTPUT_PURPOSE, now, batch.output_ttl_s).id
