"""Turns a part's rows into token ids of texts or chunks, and rejects the rows that cannot be encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cluster.corpus.prepare.chunking import chunk_spans
from cluster.corpus.read.rows import Rows
from cluster.corpus.rejects import NOTHING_TO_READ, text_fault, too_long, too_long_to_chunk
from cluster.corpus.settings import Pairs
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import TokenBatch
from deployments.core.batching.packing import split_in_order
from deployments.core.errors import InvalidRequest
from deployments.core.models.prompts import prefix, render
from deployments.core.models.spec import Role

_ROWS_PER_CALL = 1_024
_CHARACTERS_PER_CALL = 4_000_000  # of several rows; finding chunks takes about 40 bytes for each
_MOST_CHUNKED_CHARACTERS = 10_000_000  # of one row: half a gigabyte
_PLACEHOLDER = "a"


@dataclass(frozen=True)
class TextOptions:
    """How texts are prepared: their prompt, and what happens to long ones (see `Settings`).

    With ``pairs``, they are scored, each of them together with its query.
    """

    role: Role
    instruction: str | None = None
    truncate: bool = False
    chunk: int | None = None
    overlap: int = 0
    pairs: Pairs | None = None


@dataclass(frozen=True)
class Item:
    """One text to encode: characters ``start`` to ``stop`` of row ``row``."""

    row: int
    start: int
    stop: int


@dataclass
class Documents:
    """The items to encode with their token ids, in the order of the rows.

    ``rejected`` holds, by row, why a row is not encoded; ``truncated`` counts the texts that were cut.
    """

    items: list[Item] = field(default_factory=list)
    batches: list[TokenBatch] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    truncated: int = 0

    @cached_property
    def batch(self) -> TokenBatch | None:
        """The token ids of all items, concatenated once; None if there are no items."""
        return TokenBatch.concatenate(self.batches) if self.batches else None


def check_chunk(preprocessor: Preprocessor, options: TextOptions) -> None:
    """Raises InvalidRequest if a chunk and the prompt together exceed the model's limit."""
    if options.chunk is None:
        return
    tokenizer = preprocessor.tokenizer
    prompt = prefix(preprocessor.spec, options.role, options.instruction)
    room = tokenizer.room - (len(tokenizer.spans([prompt])[0].offsets) if prompt else 0)
    if options.chunk > room:
        raise InvalidRequest(
            f"chunks of {options.chunk} tokens do not fit {preprocessor.spec.name}: "
            f"--chunk may be {room} at most",
            "chunk",
        )


def prepare(preprocessor: Preprocessor, rows: Rows, options: TextOptions) -> Documents:
    """Returns the items of a part's rows. A row is rejected as a whole or not at all."""
    documents = Documents(rejected=dict(rows.faults))
    for row, value in enumerate(rows.texts):
        if row not in documents.rejected and (reason := _fault(value, options)) is not None:
            documents.rejected[row] = reason
    for numbers in in_calls(documents, rows.texts):
        texts = {row: str(rows.texts[row]) for row in numbers}
        _add(preprocessor, texts, options, documents)
    return documents


def in_calls(documents: Documents, *columns: Sequence[object]) -> Iterator[list[int]]:
    """Yields the rows that are not rejected, as many as are tokenized at once."""
    valid = [row for row in range(len(columns[0])) if row not in documents.rejected]
    lengths = [sum(len(str(column[row])) for column in columns) for row in valid]
    if valid:
        for start, stop in split_in_order(lengths, _CHARACTERS_PER_CALL, _ROWS_PER_CALL):
            yield valid[start:stop]


def _fault(value: object, options: TextOptions) -> str | None:
    """Returns why a text cannot be encoded, as far as that shows before it is tokenized."""
    if (reason := text_fault(value)) is not None:
        return reason
    if options.chunk and len(str(value)) > _MOST_CHUNKED_CHARACTERS:
        return too_long_to_chunk(len(str(value)), _MOST_CHUNKED_CHARACTERS)
    return None


def _add(
    preprocessor: Preprocessor, texts: dict[int, str], options: TextOptions, documents: Documents
) -> None:
    """Tokenizes ``texts``, which are keyed by row, and adds their items to ``documents``."""
    items = list(_items(preprocessor, texts, options))
    batch, over_limit, unreadable = _tokenize(
        preprocessor, [texts[item.row][item.start : item.stop] for item in items], options
    )
    for n in unreadable:
        documents.rejected[items[n].row] = NOTHING_TO_READ
    if options.truncate:
        documents.truncated += len(over_limit)
    else:
        reason = too_long(preprocessor.spec.max_tokens)
        documents.rejected.update(dict.fromkeys((items[n].row for n in over_limit), reason))
    kept = [n for n, item in enumerate(items) if item.row not in documents.rejected]
    if kept and batch is not None:
        documents.items += [items[n] for n in kept]
        documents.batches.append(batch if len(kept) == len(items) else batch.select(kept))


def _items(
    preprocessor: Preprocessor, texts: dict[int, str], options: TextOptions
) -> Iterator[Item]:
    if options.chunk is None:
        yield from (Item(row, 0, len(text)) for row, text in texts.items())
        return
    token_spans = preprocessor.tokenizer.spans(list(texts.values()))
    for (row, text), tokens in zip(texts.items(), token_spans, strict=True):
        chunks = chunk_spans(tokens, options.chunk, options.overlap)
        for start, stop in chunks or [(0, len(text))]:
            yield Item(row, start, stop)


def _tokenize(
    preprocessor: Preprocessor, texts: Sequence[str], options: TextOptions
) -> tuple[TokenBatch | None, Sequence[int], Sequence[int]]:
    """Returns the token ids, and which texts were cut and which have no tokens.

    A text without tokens gets the ids of a placeholder.
    """
    unread = preprocessor.tokenizer.without_tokens(texts)
    readable = list(texts)
    for n in unread:
        readable[n] = _PLACEHOLDER
    rendered = render(preprocessor.spec, readable, options.role, options.instruction)
    tokenized = preprocessor.tokenizer.tokenize(rendered, truncate=True)
    prompt = prefix(preprocessor.spec, options.role, options.instruction)
    batch = preprocessor.tokenizer.with_prompts(tokenized.batch, options.role, prompt)
    return batch, tokenized.truncated, unread
