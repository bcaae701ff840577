"""Turns a part's rows into pairs of a query and a document, and rejects those that cannot be scored."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.corpus.prepare.documents import Documents, Item, TextOptions, in_calls
from cluster.corpus.read.rows import Rows
from cluster.corpus.rejects import NOTHING_TO_READ, pair_fault, text_fault, too_long_together
from deployments.client.preprocessing import Preprocessor
from deployments.core.models.pairs import tokenize_rows


def prepare_pairs(preprocessor: Preprocessor, rows: Rows, options: TextOptions) -> Documents:
    """Returns one item for each row, whose token ids are those of the query and the text."""
    documents = Documents(rejected=dict(rows.faults))
    for row, (query, text) in enumerate(zip(rows.queries, rows.texts, strict=True)):
        if row not in documents.rejected and (reason := _fault(query, text)) is not None:
            documents.rejected[row] = reason
    for numbers in in_calls(documents, rows.queries, rows.texts):
        _reject_unread(preprocessor, rows, numbers, documents)
        if readable := [row for row in numbers if row not in documents.rejected]:
            _add(preprocessor, rows, readable, options, documents)
    return documents


def _fault(query: object, text: object) -> str | None:
    """Returns why a pair cannot be scored, as far as that shows before it is tokenized."""
    for name, value in (("query", query), ("document", text)):
        if (reason := text_fault(value)) is not None:
            return pair_fault(name, reason)
    return None


def _reject_unread(
    preprocessor: Preprocessor, rows: Rows, numbers: Sequence[int], documents: Documents
) -> None:
    for name, values in (("query", rows.queries), ("document", rows.texts)):
        texts = [str(values[row]) for row in numbers]
        for n in preprocessor.tokenizer.without_tokens(texts):
            documents.rejected.setdefault(numbers[n], pair_fault(name, NOTHING_TO_READ))


def _add(
    preprocessor: Preprocessor,
    rows: Rows,
    numbers: Sequence[int],
    options: TextOptions,
    documents: Documents,
) -> None:
    """Tokenizes the pairs of these rows, and adds their items to ``documents``."""
    queries, texts = ([str(v[row]) for row in numbers] for v in (rows.queries, rows.texts))
    spec, tokenizer = preprocessor.spec, preprocessor.tokenizer
    tokenized = tokenize_rows(spec, tokenizer, queries, texts, options.instruction)
    if options.truncate:
        documents.truncated += len(tokenized.truncated)
        kept = list(range(len(numbers)))
    else:
        reason = too_long_together(spec.max_tokens)
        documents.rejected.update({numbers[n]: reason for n in tokenized.truncated})
        kept = [n for n, row in enumerate(numbers) if row not in documents.rejected]
    if kept:
        documents.items += [Item(numbers[n], 0, len(texts[n])) for n in kept]
        whole = len(kept) == len(numbers)
        documents.batches.append(tokenized.batch if whole else tokenized.batch.select(kept))
