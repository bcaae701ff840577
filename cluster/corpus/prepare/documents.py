"""From a part's rows to what is encoded: texts or chunks as token ids, and the rows that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cluster.corpus import rejects as vetting
from cluster.corpus.prepare.chunking import pieces
from cluster.corpus.read.reading import Rows
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import TokenBatch
from deployments.core.errors import InvalidRequest
from deployments.core.models.prompts import prefix, render
from deployments.core.models.spec import Role

_AT_ONCE = 1_024


@dataclass(frozen=True)
class Cut:
    """How texts are prepared: prompt, and what happens to long ones (see `Settings`)."""

    role: Role
    instruction: str | None = None
    truncate: bool = False
    chunk: int | None = None
    overlap: int = 0


@dataclass(frozen=True)
class Item:
    """One text to encode: characters ``start`` to ``stop`` of row ``row``."""

    row: int
    start: int
    stop: int


@dataclass
class Documents:
    """Items with their token ids, in the order of the rows, and why rows are missing, by row."""

    items: list[Item] = field(default_factory=list)
    batches: list[TokenBatch] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    truncated: int = 0

    @cached_property
    def batch(self) -> TokenBatch | None:
        """The token ids of all items, as of the first look; None when there are none."""
        return TokenBatch.concatenate(self.batches) if self.batches else None


def check_chunk(preprocessor: Preprocessor, cut: Cut) -> None:
    """Raises InvalidRequest when chunks of this size and the prompt exceed the model's limit."""
    if cut.chunk is None:
        return
    tokenizer, head = preprocessor.tokenizer, prefix(preprocessor.spec, cut.role, cut.instruction)
    room = tokenizer.room - (len(tokenizer.spans([head])[0].offsets) if head else 0)
    if cut.chunk > room:
        raise InvalidRequest(
            f"chunks of {cut.chunk} tokens do not fit {preprocessor.spec.name}: at most {room}",
            "chunk",
        )


def prepare(preprocessor: Preprocessor, rows: Rows, cut: Cut) -> Documents:
    """Returns what is encoded of a part's rows. A row is rejected as a whole or not at all."""
    found = Documents(rejected=dict(rows.faults))
    for row, value in enumerate(rows.texts):
        if row not in found.rejected and (reason := vetting.fault(value)) is not None:
            found.rejected[row] = reason
    good = [row for row in range(len(rows)) if row not in found.rejected]
    for start in range(0, len(good), _AT_ONCE):
        _add(preprocessor, rows.texts, good[start : start + _AT_ONCE], cut, found)
    return found


def _add(
    preprocessor: Preprocessor,
    values: Sequence[object],
    rows: Sequence[int],
    cut: Cut,
    found: Documents,
) -> None:
    texts = {row: str(values[row]) for row in rows}
    items = list(_items(preprocessor, texts, cut))
    batch, over, bad = _tokenized(
        preprocessor, [texts[i.row][i.start : i.stop] for i in items], cut
    )
    for item in bad:
        found.rejected[items[item].row] = "nothing in it that the model reads"
    if cut.truncate:
        found.truncated += len(over)
    else:
        reason = vetting.too_long(preprocessor.spec.max_tokens)
        found.rejected.update(dict.fromkeys((items[item].row for item in over), reason))
    kept = [n for n, item in enumerate(items) if item.row not in found.rejected]
    if kept and batch is not None:
        found.items += [items[n] for n in kept]
        found.batches.append(batch if len(kept) == len(items) else batch.select(kept))


def _items(preprocessor: Preprocessor, texts: dict[int, str], cut: Cut) -> Iterator[Item]:
    if cut.chunk is None:
        yield from (Item(row, 0, len(text)) for row, text in texts.items())
        return
    spans = preprocessor.tokenizer.spans(list(texts.values()))
    for (row, text), span in zip(texts.items(), spans, strict=True):
        found = pieces(span.offsets, span.words, cut.chunk, cut.overlap)
        for start, stop in found or [(0, len(text))]:
            yield Item(row, start, stop)


def _tokenized(
    preprocessor: Preprocessor, texts: Sequence[str], cut: Cut
) -> tuple[TokenBatch | None, Sequence[int], Sequence[int]]:
    """Returns ids, the texts that were cut, and those that hold nothing (their ids are a stand-in)."""
    rendered = render(preprocessor.spec, texts, cut.role, cut.instruction)
    try:
        found = preprocessor.tokenizer.tokenize(rendered, truncate=True)
    except InvalidRequest:
        bad = [n for n, text in enumerate(rendered) if not _readable(preprocessor, text)]
        stand_in = [text if n not in bad else "a" for n, text in enumerate(rendered)]
        found = preprocessor.tokenizer.tokenize(stand_in, truncate=True)
        return found.batch, found.truncated, bad
    return found.batch, found.truncated, ()


def _readable(preprocessor: Preprocessor, text: str) -> bool:
    try:
        preprocessor.tokenizer.tokenize([text], truncate=True)
    except InvalidRequest:
        return False
    return True
