"""Smaller vectors are sentence-transformers' own codes, on ranges that depend on the dimension alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.util import quantize_embeddings

from deployments.core.errors import InvalidRequest
from deployments.core.quantization import OutputDtype, byte_range, quantized
from deployments.core.vectors import normalized

CODES = [OutputDtype.INT8, OutputDtype.UINT8, OutputDtype.BINARY, OutputDtype.UBINARY]


def unit_vectors(rows=50, dimensions=48, seed=0):
    return normalized(
        np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)
    )


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("dimensions", [8, 48, 100, 1024])
def test_the_codes_are_those_of_sentence_transformers(dtype, dimensions):
    vectors = unit_vectors(dimensions=dimensions)
    most = byte_range(dimensions)
    ranges = np.array([[-most] * dimensions, [most] * dimensions], np.float32)
    theirs = quantize_embeddings(vectors, dtype.value, ranges)
    ours = quantized(vectors, dtype)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    # a component on the border of two codes may fall to either side
    far = np.abs(ours.astype(int) - theirs.astype(int))
    assert far.max() <= (1 if "int8" in dtype else 0)
    assert (far > 0).mean() < 0.001


@pytest.mark.parametrize("dtype", CODES)
def test_a_code_does_not_depend_on_the_other_vectors_of_a_request(dtype):
    vectors = unit_vectors()
    alone = np.concatenate([quantized(vectors[i : i + 1], dtype) for i in range(len(vectors))])
    assert np.array_equal(quantized(vectors, dtype), alone)


def test_bytes_keep_the_order_of_cosines():
    vectors = unit_vectors(rows=400, dimensions=256)
    codes = quantized(vectors, OutputDtype.INT8).astype(np.float32)
    exact, ours = vectors @ vectors.T, normalized(codes + 0.5) @ normalized(codes + 0.5).T
    assert np.abs(exact - ours).max() < 0.01


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "<f4"), ("float16", "<f2")])
def test_floats(dtype, kind):
    vectors = unit_vectors()
    assert np.array_equal(quantized(vectors, OutputDtype(dtype)), vectors.astype(kind))
    assert OutputDtype(dtype).space_suffix == ""


@pytest.mark.parametrize("dtype", [OutputDtype.INT8, OutputDtype.UINT8])
@pytest.mark.parametrize("length", [0.0, 0.5, 2.0])
def test_bytes_of_vectors_that_are_not_normalised_are_refused(dtype, length):
    with pytest.raises(InvalidRequest) as refused:
        quantized(unit_vectors() * np.float32(length), dtype)
    assert refused.value.param == "output_dtype"


def test_codes_are_spaces_of_their_own():
    suffixes = {dtype.space_suffix for dtype in CODES}
    assert len(suffixes) == len(CODES)
    assert all(suffix.startswith("+") for suffix in suffixes)


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8).filter(
        lambda v: any(abs(x) > 0.01 for x in v)
    )
)
def test_a_larger_component_never_has_a_smaller_code(values):
    vectors = normalized(np.array([values], np.float32))
    codes = quantized(vectors, OutputDtype.UINT8)[0]
    order = np.argsort(vectors[0])
    assert (np.diff(codes[order].astype(int)) >= 0).all()
