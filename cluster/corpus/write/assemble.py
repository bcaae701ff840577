"""A part's results as Arrow tables: what was encoded, and what was rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.corpus import rejects as vetting
from cluster.corpus.prepare.documents import Documents, Item
from cluster.corpus.read.reading import Rows, texts_of
from cluster.corpus.settings import Settings
from cluster.corpus.write.manifest import Counts
from cluster.corpus.write.output import reject_table, vector_column
from deployments.core.batch import Vectors

_TEXT = (pa.string(), pa.large_string(), pa.string_view())


def assemble(
    source: str, rows: Rows, documents: Documents, vectors: Vectors, settings: Settings
) -> tuple[Any, Any, Counts]:
    """Returns the table of vectors, the table of rejects, and the counts of both.

    ``vectors`` has one row for each item of ``documents``. A row of which any chunk failed is
    rejected as a whole.
    """
    ids = _ids(source, rows, settings, documents.rejected)
    _reject_repeated(ids, source, documents.rejected)
    kept = [n for n, item in enumerate(documents.items) if item.row not in documents.rejected]
    items = [documents.items[n] for n in kept]
    table = _encoded(ids, rows, items, vectors[kept], settings)
    rejects = reject_table(
        [
            (str(ids[row]), source, rows.positions[row], reason, vetting.shown(rows.texts[row]))
            for row, reason in sorted(documents.rejected.items())
        ]
    )
    counts = Counts(
        rows=len(rows),
        documents=len(rows) - len(documents.rejected),
        written=len(items),
        rejected=len(documents.rejected),
        truncated=documents.truncated,
        tokens=documents.batch.tokens if documents.batch is not None else 0,
    )
    return table, rejects, counts


def _ids(source: str, rows: Rows, settings: Settings, rejected: dict[int, str]) -> Sequence[Any]:
    """The rows' own ids; a row without one that can be read is rejected under a derived id."""
    own = [None] * len(rows) if settings.id_column is None else _own_ids(rows, settings, rejected)
    return [
        vetting.derived_id(source, position, text) if name is None else name
        for name, position, text in zip(own, rows.positions, rows.texts, strict=True)
    ]


def _own_ids(rows: Rows, settings: Settings, rejected: dict[int, str]) -> Sequence[Any]:
    column = rows.carried[settings.id_column]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    found = texts_of(column)
    for row, name in enumerate(found):
        if name is None:
            rejected.setdefault(row, f"null in the id column {settings.id_column!r}")
        elif isinstance(name, bytes) and kind in _TEXT:
            rejected.setdefault(row, f"not valid UTF-8 in the id column {settings.id_column!r}")
            found[row] = None
    return found


def _reject_repeated(ids: Sequence[Any], source: str, rejected: dict[int, str]) -> None:
    """The first row that can be encoded keeps an id; see `once.py` for ids of other parts."""
    seen = set()
    for row, name in enumerate(map(str, ids)):
        if row in rejected:
            continue
        if name in seen:
            rejected[row] = vetting.repeated(source)
        seen.add(name)


def _encoded(
    ids: Sequence[Any], rows: Rows, items: list[Item], vectors: Vectors, settings: Settings
) -> Any:
    numbers = np.array([item.row for item in items], np.int64)
    if settings.id_column:
        id_column = rows.carried[settings.id_column].take(numbers)
    else:
        id_column = pa.array([ids[row] for row in numbers], pa.string())
    columns = {"id": id_column}
    if settings.chunk is not None:
        columns = _chunk_columns(id_column, items)
    for name in settings.keep:
        columns[name] = rows.carried[name].take(numbers)
    if settings.chunk is not None and settings.text_column in settings.keep:
        columns[settings.text_column] = _chunk_texts(rows, items)
    columns["embedding"] = vector_column(vectors, settings.dtype)
    return pa.table(columns)


def _chunk_columns(documents: Any, items: list[Item]) -> dict[str, Any]:
    numbers, count, last = [], 0, -1
    for item in items:
        count = count + 1 if item.row == last else 0
        last = item.row
        numbers.append(count)
    names = [f"{d}#{n}" for d, n in zip(documents.to_pylist(), numbers, strict=True)]
    return {
        "id": pa.array(names, pa.string()),
        "document_id": documents,
        "chunk": pa.array(numbers, pa.int32()),
        "start": pa.array([item.start for item in items], pa.int64()),
        "stop": pa.array([item.stop for item in items], pa.int64()),
    }


def _chunk_texts(rows: Rows, items: list[Item]) -> Any:
    return pa.array([str(rows.texts[i.row])[i.start : i.stop] for i in items], pa.string())
