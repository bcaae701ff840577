"""One file of the output as Parquet: how it is written, and what its metadata say about its part."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet as pq

from cluster.corpus.plan.schemas import parquet_metadata
from deployments.core.batch import AnyVectors, Vectors
from deployments.core.quantization import OutputDtype, quantized
from deployments.core.sparse import SparseVectors

_KEY = b"embedfleet"
SPARSE_COLUMNS = frozenset({"indices", "values"})
_NUMBERS = frozenset({"embedding", "values"})


def as_parquet(table: Any, about: bytes) -> Any:
    """Returns a file as a buffer; ``about`` goes into its metadata. See `about`."""
    table = table.replace_schema_metadata({_KEY: about})
    sink = pa.BufferOutputStream()
    # floats of vectors do not compress, with or without a dictionary; codes need one, because Parquet
    # has no type of one byte, and would take four for each
    floats = {f"{f.name}.list.element" for f in table.schema if f.name in _NUMBERS and _is_float(f)}
    leaves = _leaves(table.schema)
    others = [path for path in leaves if path not in floats]
    codec = {path: "snappy" if path in others else "none" for path in leaves}
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


def vector_column(vectors: Vectors, dtype: str) -> Any:
    """Returns float32 vectors ``(rows, dimensions)`` as an Arrow column of fixed-size lists.

    Raises InvalidRequest as `quantized`.
    """
    return list_column(quantized(vectors, OutputDtype(dtype)))


def list_column(numbers: npt.NDArray[Any], missing: npt.NDArray[np.bool_] | None = None) -> Any:
    """Returns numbers ``(rows, length)`` as an Arrow column of fixed-size lists.

    The rows of ``missing``, if given, are null.
    """
    flat = pa.array(numbers.reshape(-1))
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(flat, numbers.shape[1], mask=mask)


def vector_columns(vectors: AnyVectors, dtype: str) -> dict[str, Any]:
    """Returns ``embedding``, or ``indices`` and ``values``: lists of uint32 and of ``dtype``."""
    if not isinstance(vectors, SparseVectors):
        return {"embedding": vector_column(vectors, dtype)}
    offsets = pa.array(vectors.offsets, pa.int32())
    flat = {"indices": vectors.indices, "values": vectors.values.astype(dtype, copy=False)}
    return {
        name: pa.ListArray.from_arrays(offsets, pa.array(numbers)) for name, numbers in flat.items()
    }


def score_column(scores: AnyVectors) -> dict[str, Any]:
    """Returns ``score``: float32, one for each row of ``scores``, ``(rows, 1)``."""
    assert not isinstance(scores, SparseVectors)
    return {"score": pa.array(scores[:, 0], pa.float32())}


def _is_float(numbers: Any) -> bool:
    """Whether a column holds lists of floats."""
    is_list = pa.types.is_fixed_size_list(numbers.type) or pa.types.is_list(numbers.type)
    return is_list and bool(pa.types.is_floating(numbers.type.value_type))


def _leaves(schema: Any) -> list[str]:
    """The column names in Parquet, where a nested column is several."""
    columns = parquet_metadata(schema).schema
    return [columns.column(n).path for n in range(len(columns))]
