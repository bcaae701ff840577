"""Smaller vectors: half precision, and bytes and bits as sentence-transformers' ``quantize_embeddings``.

Bytes need a range. It is fixed here, so that codes compare across requests without a calibration that
every client would have to share. A vector of length 1 has components of about ``1 / sqrt(dimensions)``;
the range is `RANGE` times that on either side, and what lies beyond is cut off. `benchmarks.quantization`
measures what ranks keep.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.core.batch import Vectors
from deployments.core.errors import InvalidRequest

RANGE = 4.0
_LEVELS = 255
_UNIT = 1e-3  # how far from 1 the length of a vector may be


class OutputDtype(StrEnum):
    """How the numbers of a vector are written."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"

    @property
    def space_suffix(self) -> str:
        """What is added to the id of an embedding space: codes and floats do not compare."""
        return "" if self in (OutputDtype.FLOAT32, OutputDtype.FLOAT16) else f"+{self.value}"

    @property
    def needs_range(self) -> bool:
        """Whether a byte stands for each dimension, which takes a range and vectors of length 1."""
        return self in (OutputDtype.INT8, OutputDtype.UINT8)


def byte_range(dimensions: int) -> float:
    """Returns the largest component that a byte can hold."""
    return RANGE / float(np.sqrt(dimensions))


def quantized(vectors: Vectors, dtype: OutputDtype) -> npt.NDArray[Any]:
    """Returns little-endian numbers of this kind; a byte of a binary one holds eight dimensions.

    Raises InvalidRequest if bytes are asked for and a vector's length is not 1.
    """
    if dtype is OutputDtype.FLOAT32:
        return vectors.astype("<f4", copy=False)
    if dtype is OutputDtype.FLOAT16:
        return vectors.astype("<f2")
    if dtype in (OutputDtype.BINARY, OutputDtype.UBINARY):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if dtype is OutputDtype.UBINARY else _signed(bits)
    if has_other_length(vectors).any():
        raise _wrong_length(dtype)
    codes = _codes(vectors)
    return codes if dtype is OutputDtype.UINT8 else _signed(codes)


def has_other_length(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Returns for each vector whether its length is not 1, so that it has no bytes."""
    lengths = np.linalg.norm(vectors, axis=1)
    is_one: npt.NDArray[np.bool_] = np.abs(lengths - 1) <= _UNIT
    return ~is_one


def _codes(vectors: Vectors) -> npt.NDArray[np.uint8]:
    most = np.float32(byte_range(vectors.shape[1]))
    step = 2 * most / np.float32(_LEVELS)
    levels = np.clip(np.floor((vectors + most) / step), 0, _LEVELS)
    return levels.astype(np.uint8)  # type: ignore[no-any-return]


def _signed(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Returns the codes less 128."""
    return (codes ^ np.uint8(128)).view(np.int8)


def _wrong_length(dtype: OutputDtype) -> InvalidRequest:
    return InvalidRequest(
        f"`output_dtype` {dtype} has a fixed range that suits vectors of length 1, and these are not "
        "normalised; send `normalize`: true, or ask for float16 or binary",
        "output_dtype",
    )
