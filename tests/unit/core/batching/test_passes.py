"""A pass that never fails as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.batch import TokenBatch
from deployments.core.batching.passes import EngineBroken, run_pass
from deployments.core.errors import EmbedfleetError, InvalidRequest, TextFailed
from tests.support.fake_engine import FakeEngine, vector_of

POISON = 666


@pytest.mark.parametrize("culprits", [[0], [2], [4], [0, 4], [1, 2, 3], [0, 1, 2, 3, 4]])
def test_only_the_culprits_get_an_error(culprits):
    texts = [[POISON] if row in culprits else [row + 1] for row in range(5)]
    outcome = run_pass(FakeEngine(poison=POISON), TokenBatch.from_lists(texts))
    for row, actual in enumerate(outcome):
        if row in culprits:
            assert str(actual) == "the engine failed on a text of 1 tokens: a poisoned text"
        else:
            assert actual.tolist() == vector_of(texts[row])


def test_an_error_of_many_lines_is_told_by_its_last():
    pages = RuntimeError("Traceback of TorchScript\n  File x.py, line 1\nRuntimeError: too long\n")
    [actual] = run_pass(
        FakeEngine(poison=POISON, error=lambda: pages), TokenBatch.from_lists([[POISON]])
    )
    assert str(actual) == "the engine failed on a text of 1 tokens: too long"


def test_a_cuda_error_is_told_by_its_first():
    error = torch.AcceleratorError(
        "CUDA error: device-side assert\nCompile with `TORCH_USE_CUDA_DSA`"
    )
    [actual] = run_pass(
        FakeEngine(poison=POISON, error=lambda: error), TokenBatch.from_lists([[POISON]])
    )
    assert str(actual) == "the engine failed on a text of 1 tokens: CUDA error: device-side assert"


def test_the_error_of_ours_is_kept():
    error = InvalidRequest("not in the vocabulary", "input")
    [actual] = run_pass(
        FakeEngine(poison=POISON, error=lambda: error), TokenBatch.from_lists([[POISON]])
    )
    assert actual is error


class Sticky(FakeEngine):
    """Fails for good once it has seen the poison, as a GPU does after an illegal access."""

    def forward(self, batch):
        self.broken = getattr(self, "broken", False) or POISON in batch.ids
        if self.broken:
            self.passes.append([])
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().forward(batch)


def test_an_engine_that_fails_on_anything_blames_no_text():
    engine = Sticky()
    with pytest.raises(EngineBroken, match=r"illegal memory access .* then also .* illegal"):
        run_pass(engine, TokenBatch.from_lists([[1], [POISON], [3], [4]]))
    assert len(engine.passes) == 2


def test_an_engine_that_has_no_room_just_now_is_not_broken():
    engine = FakeEngine(poison=POISON, room=4)  # less than the probe takes
    first, wrong = run_pass(engine, TokenBatch.from_lists([[1], [POISON]]))
    assert first.tolist() == vector_of([1])
    assert isinstance(wrong, TextFailed)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30))
def test_whatever_the_room_each_text_that_fits_alone_is_answered(lengths, room):
    texts = [[row + 1] * length for row, length in enumerate(lengths)]
    for text, actual in zip(
        texts, run_pass(FakeEngine(room=room), TokenBatch.from_lists(texts)), strict=True
    ):
        if len(text) <= room:
            assert actual.tolist() == vector_of(text)
        else:
            assert isinstance(actual, EmbedfleetError)
            assert "does not fit" in actual.message


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_process_is_not_caught(error):
    with pytest.raises(error):
        run_pass(FakeEngine(poison=POISON, error=error), TokenBatch.from_lists([[POISON], [1]]))


def test_memory_is_freed_before_the_halves_are_tried():
    engine = FakeEngine(room=4)
    run_pass(engine, TokenBatch.from_lists([[1, 1], [2, 2], [3, 3]]))
    assert engine.freed == 1


def test_other_errors_free_no_memory():
    engine = FakeEngine(poison=POISON)
    run_pass(engine, TokenBatch.from_lists([[POISON]]))
    assert engine.freed == 0


class Overflowing(FakeEngine):
    """Gives infinity for the poisoned text, as float16 does for some."""

    def forward(self, batch):
        vectors = FakeEngine(poison=None).forward(batch)
        vectors[[POISON in batch.text(row) for row in range(len(batch))]] = np.inf
        return vectors


def test_a_vector_that_is_no_number_is_an_error_and_its_neighbours_are_not():
    first, wrong, last = run_pass(Overflowing(), TokenBatch.from_lists([[1], [POISON], [3]]))
    assert "not finite" in str(wrong)
    assert first.tolist() == vector_of([1])
    assert last.tolist() == vector_of([3])
