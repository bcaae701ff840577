"""Frames as bytes: what is written is read again, and what nobody could have written is refused."""

from __future__ import annotations

import json
import pickle
import pickletools
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.config.schema import ModelConfig
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import (
    DeadlineExceeded,
    EmbedfleetError,
    KillsReplicas,
    Overloaded,
    TextFailed,
)
from deployments.core.lane import Lane
from deployments.core.models.spec import Kind as ModelKind
from deployments.core.models.spec import ModelSpec
from deployments.core.sparse import SparseVectors
from deployments.core.tenants.tenant import SHARE_OF_ANYONE
from deployments.wire import frames
from deployments.wire.calls import OtherVersion, Terms, texts_of_a_call
from deployments.wire.frames import BadFrame, CallFrame, FrameReader, Kind
from deployments.wire.status import ReplicaState, ReplicaStatus

TOKEN = bytes(range(frames.TOKEN_BYTES))
ENCODED = Encoded(
    np.float32([[1, 2], [0, 0]]), 0.5, 0.25, {1: TextFailed("not finite", "input", 2.0)}
)


def only(data: bytes) -> frames.Frame:
    """Returns the one frame of these bytes."""
    (frame,) = FrameReader().feed(data)
    return frame


texts = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), max_size=5)


trials = st.none() | st.text("abc", min_size=1)
tenants = st.text("xyz-", min_size=1, max_size=64)
terms = st.builds(Terms, st.text(max_size=20), trials, tenants, st.floats(0.01, 100))


@settings(max_examples=50)
@given(texts, st.sampled_from(Lane), st.floats(0, 1e6), terms)
def test_a_call_is_read_as_it_was_written(ids, lane, timeout_s, terms):
    sent = CallFrame(TokenBatch.from_lists(ids), lane, timeout_s, terms)
    frame = only(frames.call(7, sent))
    received = frames.read_call(frame.body)
    assert (frame.kind, frame.number) == (Kind.CALL, 7)
    assert (received.lane, received.timeout_s, received.terms) == (lane, timeout_s, sent.terms)
    assert [received.batch.text(row).tolist() for row in range(len(ids))] == ids


def test_prompts_travel_with_their_texts():
    prompts = np.int32([[0, 2], [1, 0]])
    batch = TokenBatch(np.int32([5, 6, 7]), np.int32([2, 1]), prompts)
    frame = only(frames.call(1, CallFrame(batch, Lane.ONLINE, 1.0, Terms("space", "trial"))))
    received = frames.read_call(frame.body)
    assert received.batch.prompts.tolist() == prompts.tolist()
    assert received.batch.ids.tolist() == [5, 6, 7]
    assert received.terms == Terms("space", "trial")


@pytest.mark.parametrize("prompt", [[2, 0], [-1, 0], [0, 3], [0, -1]])
def test_a_prompt_of_no_role_or_longer_than_its_text_is_refused(prompt):
    batch = TokenBatch(np.int32([5, 6]), np.int32([2]), np.int32([prompt]))
    frame = only(frames.call(1, CallFrame(batch, Lane.ONLINE, 1.0, Terms("space"))))
    with pytest.raises(BadFrame, match="prompt"):
        frames.read_call(frame.body)


def test_token_ids_can_be_written_to_and_are_aligned():
    sent = CallFrame(TokenBatch.from_lists([[1, 2]]), Lane.ONLINE, 1.0, Terms("odd"))
    ids = frames.read_call(only(frames.call(1, sent)).body).batch.ids
    assert ids.flags.writeable
    assert ids.flags.aligned


def test_an_answer_is_read_as_it_was_written():
    frame = only(frames.answer(3, ENCODED, {Lane.ONLINE: 5, Lane.OFFLINE: 2**40}))
    encoded, waiting = frames.read_answer(frame.body)
    np.testing.assert_array_equal(encoded.vectors, ENCODED.vectors)
    assert (encoded.queued_s, encoded.computed_s) == (0.5, 0.25)
    assert waiting == {Lane.ONLINE: 5, Lane.OFFLINE: 2**32 - 1}
    (error,) = encoded.errors.values()
    assert (type(error), error.args) == (TextFailed, ENCODED.errors[1].args)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_an_answer_without_vectors(shape):
    frame = only(frames.answer(3, Encoded(np.zeros(shape, np.float32), 0, 0), {}))
    assert frames.read_answer(frame.body)[0].vectors.shape == shape


@pytest.mark.parametrize(
    "error",
    [
        EmbedfleetError("wrong"),
        Overloaded("full", None, 1.5),
        DeadlineExceeded("late", "x"),
        KillsReplicas("it kills", "input"),
    ],
)
def test_errors_travel_by_their_code(error):
    read = frames.read_refusal(only(frames.refusal(1, error)).body)
    assert (type(read), read.args) == (type(error), error.args)


def test_the_error_of_a_newer_version_is_still_an_error():
    body = bytearray(json.dumps(["quota_exhausted", "no more today", None, 60]).encode())
    read = frames.read_refusal(body)
    assert (type(read), read.message, read.retry_after_s) == (EmbedfleetError, "no more today", 60)


def test_another_version_is_read_as_it_was_written():
    other = OtherVersion(ModelConfig(name="acme/tiny", revision="f" * 40, num_gpus=1), "space")
    assert frames.read_moved(only(frames.moved(1, other)).body) == other


def test_a_status_is_read_as_it_was_written():
    said = ReplicaStatus(
        ReplicaState.READY,
        device="cuda:0",
        tokens_per_s=9_000,
        waiting={Lane.ONLINE: 3, Lane.OFFLINE: 0},
        gpu_ids=("3",),
        memory_mib=(1, 2),
        space="space",
    )
    assert frames.read_status(only(frames.status(said)).body) == said
    loading = ReplicaStatus(ReplicaState.LOADING, "loading")
    assert frames.read_status(only(frames.status(loading)).body) == loading


def test_the_first_frames_are_read_as_they_were_written():
    hello = frames.read_hello(only(frames.hello(TOKEN, version=3)))
    assert (hello.version, hello.token) == (3, TOKEN)
    assert frames.read_welcome(only(frames.welcome(3))) == 3


@given(st.data())
def test_frames_arrive_in_pieces_of_any_size(data):
    stream = frames.hello(TOKEN) + frames.answer(2, ENCODED, {}) + frames.frame(Kind.CANCEL, 9)
    reader, read = FrameReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        read += reader.feed(stream[:size])
        stream = stream[size:]
    assert [(frame.kind, frame.number) for frame in read] == [
        (Kind.HELLO, 0),
        (Kind.ANSWER, 2),
        (Kind.CANCEL, 9),
    ]


@given(st.binary(max_size=300))
def test_garbage_is_a_bad_frame_or_waits_for_more(garbage):
    readers = (
        frames.read_call,
        frames.read_answer,
        frames.read_refusal,
        frames.read_moved,
        frames.read_status,
    )
    for read in readers:
        with pytest.raises(BadFrame):
            read(bytearray(b"\xff" + garbage))
    with suppress(BadFrame):
        list(FrameReader(256).feed(garbage))


def test_a_frame_over_the_limit_is_refused_by_its_header():
    with pytest.raises(BadFrame, match="over the limit"):
        list(FrameReader(10).feed(frames.hello(TOKEN)[:12]))


CALL = frames.call(1, CallFrame(TokenBatch.from_lists([[1, 2], [3]]), Lane.ONLINE, 1.0, Terms("s")))


@pytest.mark.parametrize(
    ("at", "value"),
    [(12, 9), (18, 3), (18, 200), (38, 3), (41, 128), (37, 255)],
    ids=["lane", "texts", "many texts", "lengths", "negative length", "weight"],
)
def test_a_call_that_does_not_add_up_is_refused(at, value):
    data = bytearray(CALL)
    data[at] = value
    with pytest.raises(BadFrame):
        frames.read_call(only(bytes(data)).body)


@pytest.mark.parametrize("lengths", [[4, -1], [3, 0]])
def test_each_text_of_a_call_has_a_token(lengths):
    batch = TokenBatch(np.arange(3, dtype=np.int32), np.int32(lengths))
    frame = only(frames.call(1, CallFrame(batch, Lane.ONLINE, 1.0, Terms("s"))))
    with pytest.raises(BadFrame, match="add up"):
        frames.read_call(frame.body)


@pytest.mark.parametrize("received", [frames.welcome(), frames.frame(Kind.HELLO, 0, b"embedfleet")])
def test_only_a_hello_opens_a_line(received):
    with pytest.raises(BadFrame):
        frames.read_hello(only(received))


SPARSE = SparseVectors.from_dense(np.float32([[0, 1.5, 0, 2], [0, 0, 0, 0], [3, 0, 0, 0]]))


def test_sparse_vectors_are_read_as_they_were_written():
    answer = Encoded(SPARSE, 0.5, 0.25, {1: TextFailed("not finite")})
    received, waiting = frames.read_answer(only(frames.answer(7, answer, {Lane.ONLINE: 9})).body)
    assert (received.vectors.shape, waiting[Lane.ONLINE]) == ((3, 4), 9)
    assert (received.queued_s, received.computed_s, set(received.errors)) == (0.5, 0.25, {1})
    np.testing.assert_array_equal(received.vectors.dense(), SPARSE.dense())
    assert (received.vectors.indices.dtype, received.vectors.values.dtype) == ("u4", "f4")


def test_zeros_are_not_sent():
    wide = np.zeros((100, 30_000), np.float32)
    wide[:, :50] = 1
    body = only(frames.answer(1, Encoded(SparseVectors.from_dense(wide), 0, 0), {})).body
    assert len(body) < 100 * (50 * 8 + 4) + 100


@pytest.mark.parametrize("change", ["length", "lengths", "index", "short"])
def test_sparse_vectors_that_cannot_be_are_refused(change):
    body = only(frames.answer(1, Encoded(SPARSE, 0, 0), {})).body
    lengths_at = len(body) - 4 * 3 - 8 * 3
    if change == "length":
        body[lengths_at] = 3
    elif change == "lengths":  # they add up, but one is negative
        body[lengths_at : lengths_at + 12] = np.int32([4, -1, 0]).tobytes()
    elif change == "index":
        body[lengths_at + 12] = 4
    else:
        del body[-1:]
    with pytest.raises(BadFrame):
        frames.read_answer(body)


def test_calls_are_sized_by_what_their_answers_hold():
    def texts(dimension, kind):
        return texts_of_a_call(ModelSpec("m", "m", "0", "bert", None, dimension, 64, kind=kind))

    assert texts(1_000, ModelKind.EMBEDDER) == 750
    assert texts(30_522, ModelKind.SPARSE) == 183
    # at worst every entry is there
    assert texts(250_002, ModelKind.SPARSE) * 250_002 * 8 < frames.MAX_BODY_BYTES


def test_terms_of_an_older_version_belong_to_anyone():
    old = pickle.dumps({"space": "s", "trial": None})
    terms = Terms.__new__(Terms)
    vars(terms).update(pickle.loads(old))
    assert terms.share == SHARE_OF_ANYONE


def test_an_older_version_can_unpickle_terms():
    """It has the class, but no module that came with tenants."""
    opcodes = pickletools.genops(pickle.dumps(Terms("s", None, "search", 4.0)))
    named = {value for _, value, _ in opcodes if isinstance(value, str) and "deployments" in value}
    assert named == {"deployments.wire.calls"}
