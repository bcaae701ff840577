"""One file of the output as Parquet: how it is written, and what its metadata say about its part."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from cluster.corpus.plan.schemas import parquet_metadata

_KEY = b"embedfleet"
_VECTORS = "embedding.list.element"  # the name of the column in Parquet


def as_parquet(table: Any, about: bytes) -> Any:
    """Returns a file as a buffer; ``about`` goes into its metadata. See `about`."""
    table = table.replace_schema_metadata({_KEY: about})
    sink = pa.BufferOutputStream()
    # vectors do not compress, with or without a dictionary
    others = [path for path in _leaves(table.schema) if path != _VECTORS]
    codec = {_VECTORS: "none", **dict.fromkeys(others, "snappy")}
    pq.write_table(table, sink, use_dictionary=others, compression=codec)
    return sink.getvalue()


def about(metadata: Any) -> bytes | None:
    """Returns what `as_parquet` put into a file's metadata; None if another program wrote the file."""
    content: bytes | None = (metadata.metadata or {}).get(_KEY)
    return content


def ids_of(table: Any) -> list[Any]:
    """Returns the input's id of each row of a part's table."""
    ids: list[Any] = table[id_column(table.column_names)].to_pylist()
    return ids


def id_column(names: list[str]) -> str:
    """Returns the column that holds the input's ids, which differ from the ids of chunks."""
    return "document_id" if "document_id" in names else "id"


def vector_column(vectors: Any, dtype: str) -> Any:
    """Returns float32 vectors ``(rows, dimensions)`` as an Arrow column of fixed-size lists."""
    flat = pa.array(vectors.astype(dtype, copy=False).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def _leaves(schema: Any) -> list[str]:
    """The column names in Parquet, where a nested column is several."""
    columns = parquet_metadata(schema).schema
    return [columns.column(n).path for n in range(len(columns))]
