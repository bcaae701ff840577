"""Puts a part's results into Arrow tables: one of vectors, one of rejected rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.corpus.formats.columns import extension_metadata
from cluster.corpus.prepare.documents import Documents, Item
from cluster.corpus.read.rows import Rows, column_values
from cluster.corpus.rejects import (
    Reject,
    count_kinds,
    derived_id,
    duplicate_id,
    excerpt,
    reject_table,
    zero_vector,
)
from cluster.corpus.settings import Settings
from cluster.corpus.write.manifest import Counts
from cluster.corpus.write.parquet import score_column, vector_columns
from deployments.core.batch import AnyVectors
from deployments.core.quantization import OutputDtype, has_other_length
from deployments.core.sparse import SparseVectors

_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())


def assemble(
    source: str, rows: Rows, documents: Documents, vectors: AnyVectors, settings: Settings
) -> tuple[Any, Any, Counts]:
    """Returns the table of vectors, the table of rejects, and the counts of both.

    ``vectors`` has one row for each item of ``documents``. A row is rejected as a whole if any of its
    chunks failed.
    """
    reject_unwritable(vectors, documents, OutputDtype(settings.dtype))
    ids = _row_ids(source, rows, settings, documents.rejected)
    _reject_duplicates(ids, source, documents.rejected)
    kept = [n for n, item in enumerate(documents.items) if item.row not in documents.rejected]
    items = [documents.items[n] for n in kept]
    of_kept = vectors.take(kept) if isinstance(vectors, SparseVectors) else vectors[kept]
    table = _vector_table(ids, rows, items, of_kept, settings)
    rejects = reject_table(
        Reject(str(ids[row]), source, rows.positions[row], reason, excerpt(rows.texts[row]))
        for row, reason in sorted(documents.rejected.items())
    )
    counts = Counts(
        rows=len(rows),
        documents=len(rows) - len(documents.rejected),
        written=len(items),
        rejected=len(documents.rejected),
        truncated=documents.truncated,
        tokens=documents.batch.tokens if documents.batch is not None else 0,
        reasons=count_kinds(documents.rejected.values()),
    )
    return table, rejects, counts


def reject_unwritable(vectors: AnyVectors, documents: Documents, dtype: OutputDtype) -> None:
    """Rejects the rows whose vectors have no length, if they are to be written as bytes."""
    if dtype.needs_range and not isinstance(vectors, SparseVectors):
        for item in np.flatnonzero(has_other_length(vectors)).tolist():
            documents.rejected.setdefault(documents.items[item].row, zero_vector(dtype))


def _row_ids(
    source: str, rows: Rows, settings: Settings, rejected: dict[int, str]
) -> Sequence[Any]:
    """The ids of all rows; a row whose id cannot be read is rejected under a derived id."""
    ids = [None] * len(rows) if settings.id_column is None else _own_ids(rows, settings, rejected)
    return [
        derived_id(source, position, text) if row_id is None else row_id
        for row_id, position, text in zip(ids, rows.positions, rows.texts, strict=True)
    ]


def _own_ids(rows: Rows, settings: Settings, rejected: dict[int, str]) -> Sequence[Any]:
    column = rows.carried[settings.id_column]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    ids = column_values(column)
    for row, row_id in enumerate(ids):
        if row_id is None:
            rejected.setdefault(row, f"null in the id column {settings.id_column!r}")
        elif isinstance(row_id, bytes) and kind in _TEXT_TYPES:
            rejected.setdefault(row, f"not valid UTF-8 in the id column {settings.id_column!r}")
            ids[row] = None
    return ids


def _reject_duplicates(ids: Sequence[Any], source: str, rejected: dict[int, str]) -> None:
    """The first row that can be encoded keeps an id. For ids of other parts see `dedupe.py`."""
    seen = set()
    for row, row_id in enumerate(map(str, ids)):
        if row in rejected:
            continue
        if row_id in seen:
            rejected[row] = duplicate_id(source)
        seen.add(row_id)


def _vector_table(
    ids: Sequence[Any], rows: Rows, items: list[Item], vectors: AnyVectors, settings: Settings
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
    columns |= score_column(vectors) if settings.pairs else vector_columns(vectors, settings.dtype)
    own = {name: extension_metadata(rows.carried.schema.field(name)) for name in settings.columns}
    own["document_id" if settings.chunk is not None else "id"] = own.get(
        settings.id_column or "", {}
    )
    fields = [pa.field(name, c.type, metadata=own.get(name)) for name, c in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def _chunk_columns(document_ids: Any, items: list[Item]) -> dict[str, Any]:
    chunks, chunk, last_row = [], 0, -1
    for item in items:
        chunk = chunk + 1 if item.row == last_row else 0
        last_row = item.row
        chunks.append(chunk)
    ids = [f"{d}#{n}" for d, n in zip(document_ids.to_pylist(), chunks, strict=True)]
    return {
        "id": pa.array(ids, pa.string()),
        "document_id": document_ids,
        "chunk": pa.array(chunks, pa.int32()),
        "start": pa.array([item.start for item in items], pa.int64()),
        "stop": pa.array([item.stop for item in items], pa.int64()),
    }


def _chunk_texts(rows: Rows, items: list[Item]) -> Any:
    return pa.array([str(rows.texts[i.row])[i.start : i.stop] for i in items], pa.string())
