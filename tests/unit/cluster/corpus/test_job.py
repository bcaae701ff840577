"""Chunks, ids, faults, manifests and the progress line."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.corpus.encode.calls import call_tokens, calls_per_worker
from cluster.corpus.errors import JobError
from cluster.corpus.execution import StallDetector
from cluster.corpus.formats.files import InputFile
from cluster.corpus.prepare.chunking import chunk_spans, token_ranges
from cluster.corpus.progress import (
    Progress,
    ProgressPrinter,
    Snapshot,
    clock,
    progress_line,
    short_number,
)
from cluster.corpus.rejects import derived_id, excerpt, text_fault
from cluster.corpus.settings import Settings
from cluster.corpus.write.manifest import Counts, Manifest, check_resumable, identify, new_manifest
from deployments.core.errors import InvalidRequest
from deployments.core.models.catalog import CATALOG
from deployments.core.models.reading import Spans

FILE = InputFile("/c/a.csv", "a.csv", 10, 1, "csv")


@given(st.lists(st.integers(1, 9)), st.integers(1, 20), st.data())
def test_chunks_cover_the_text_in_bounds(word_lengths, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    words = [n for n, length in enumerate(word_lengths) for _ in range(length)]
    if not words:
        return
    ranges = token_ranges(words, size, overlap)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(words)
    assert all(0 < stop - start <= size for start, stop in ranges)
    for (start, stop), (following, end) in pairwise(ranges):
        assert start < following <= stop < end
        assert stop - following <= overlap


def test_chunks_end_between_words():
    assert token_ranges([0, 0, 1, 1, 1, 2], 4, 0) == [(0, 2), (2, 6)]
    assert token_ranges([0] * 10, 4, 0) == [(0, 4), (4, 8), (8, 10)]
    assert token_ranges(list(range(10)), 4, 2) == [(0, 4), (2, 6), (4, 8), (6, 10)]


def test_pieces_are_characters():
    tokens = Spans.of([(0, 2), (3, 5), (6, 9)], [0, 1, 2])
    assert chunk_spans(tokens, 2, 0) == [(0, 5), (6, 9)]
    assert chunk_spans(Spans.of([], []), 2, 0) == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("good", None),
        (None, "null"),
        ("", "empty"),
        (" \n", "empty"),
        (5, "not text: int"),
        ([1], "not text: list"),
        (b"\xff", "not text: not valid UTF-8"),
        ("\ud800", "not text: not valid Unicode"),
    ],
)
def test_faults(value, reason):
    assert text_fault(value) == reason
    assert len(derived_id("a", 0, value)) == 32
    assert excerpt(value) is None or excerpt(value).encode() is not None


def test_derived_ids_come_from_place_and_content():
    one = derived_id("a.csv", 7, "text")
    assert one == derived_id("a.csv", 7, "text")
    others = {derived_id("b.csv", 7, "text"), derived_id("a.csv", 8, "text")}
    assert one not in others | {derived_id("a.csv", 7, "text ")}


def manifest(model: str = "e5-small", files=(FILE,), carried=(), **options) -> Manifest:
    settings = Settings("in", "out", model, **options)
    return new_manifest(identify(CATALOG[model], settings, None), settings, files, carried)


def test_a_manifest_survives_its_file():
    wanted = replace(manifest(keep=("n",)), counts=Counts(rows=3), finished=True)
    assert Manifest.from_json(wanted.as_json()) == wanted
    check_resumable(Manifest.from_json(wanted.as_json()), manifest(keep=("n",)), "out", ())
    with pytest.raises(JobError, match="not a manifest"):
        Manifest.from_json(b"{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "e5-small-v2"}, "revision .*cannot be compared"),
        ({"role": "query"}, "role 'document', not 'query'"),
        ({"dtype": "float16"}, "dtype 'float32', now 'float16'"),
        ({"chunk": 100}, "chunk None, now 100"),
        ({"keep": ("n",)}, "keep"),
        ({"limit": 5}, "limit None, now 5"),
        ({"files": (replace(FILE, size=11),)}, "a.csv has changed"),
        ({"files": ()}, "a.csv, which is gone"),
    ],
)
def test_another_job_is_refused(change, message):
    from deployments.core.models.spec import Role

    if "role" in change:
        change = {"role": Role(change["role"])}
    with pytest.raises(JobError, match=message):
        check_resumable(manifest(), manifest(**change), "out", {FILE.digest})


def test_another_instruction_is_another_space():
    one = manifest("e5-mistral-7b-instruct", instruction="Find papers")
    assert one.identity.role == "query"
    with pytest.raises(JobError, match="instruction 'Find papers', not 'Find code'"):
        check_resumable(one, manifest("e5-mistral-7b-instruct", instruction="Find code"), "out", ())
    with pytest.raises(InvalidRequest):
        manifest("e5-small", instruction="Find papers")


def test_new_files_and_mended_ones_are_welcome():
    new = replace(FILE, name="b.csv")
    check_resumable(manifest(), manifest(files=(FILE, new)), "out", {FILE.digest})
    both = manifest(files=(FILE, new))
    mended = manifest(files=(FILE, replace(new, size=11)))
    check_resumable(both, mended, "out", {FILE.digest})
    check_resumable(both, manifest(), "out", {FILE.digest})
    with pytest.raises(JobError, match=r"b.csv has changed"):
        check_resumable(both, mended, "out", {FILE.digest, new.digest})


def test_other_types_of_the_carried_columns_are_refused():
    one = manifest(carried=pa.schema([("n", pa.int32()), ("s", pa.string())]))
    other = manifest(carried=pa.schema([("n", pa.int64()), ("s", pa.string())]))
    one = Manifest.from_json(one.as_json())
    assert one.settings["columns"] == {"n": "int32", "s": "string"}
    with pytest.raises(JobError, match=r"columns of other types \('n' int32, now int64\)"):
        check_resumable(one, other, "out", {FILE.digest})
    check_resumable(one, other, "out", ())
    settings = {name: value for name, value in one.settings.items() if name != "columns"}
    check_resumable(
        replace(one, settings=settings), other, "out", {FILE.digest}
    )  # of an older version


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": 5},
        {"chunk": 5, "overlap": 5},
        {"chunk": 5, "truncate": True},
        {"limit": 0},
        {"part_mb": 0},
        {"part_mb": float("nan")},
        {"part_mb": float("inf")},
        {"keep": ("embedding",)},
    ],
)
def test_options_that_contradict_each_other(options):
    with pytest.raises(JobError):
        Settings("in", "out", "m", **options)


def test_a_column_that_is_named_twice_is_kept_once():
    settings = Settings("in", "out", "m", id_column="b", keep=("a", "b", "a", "b"))
    assert settings.keep == ("a", "b")
    assert settings.columns == ("b", "a")


def test_calls_are_sized_by_what_replicas_compute():
    assert call_tokens(None) == 8_192
    assert call_tokens(20_000) == 5_000
    assert call_tokens(5e6) == 32_768
    assert calls_per_worker(0, 1) == 3
    assert calls_per_worker(4, 2) == 6


SNAPSHOT = Snapshot(Progress(12_288, 1_506_000, 3, 400.0, 200.0, 2), 1_000.0, 60.0)


def test_the_progress_line():
    assert progress_line(SNAPSHOT) == (
        " 60%  12,288 texts  25.1k tokens/s (2 × 12.6k)  3 rejected  ETA 1:00"
    ).replace("12.6k", short_number(1_506_000 / 120))
    priced = replace(SNAPSHOT, price=2.0, replica_hours=0.03)
    assert progress_line(priced).endswith("cost 0.06")
    assert "ETA" not in progress_line(Snapshot(Progress(), 10.0, 1.0))


def test_numbers_for_people():
    assert [short_number(n) for n in (0, 950, 25_100, 1_300_000)] == ["0", "950", "25.1k", "1.30M"]
    assert [clock(s) for s in (5, 80, 3_725)] == ["0:05", "1:20", "1:02:05"]


def test_a_terminal_has_one_line_and_a_log_a_line_every_ten_seconds():
    terminal, log = io.StringIO(), io.StringIO()
    live, quiet = ProgressPrinter(terminal, True), ProgressPrinter(log, False)
    for second in range(1, 31):
        live.show(replace(SNAPSHOT, seconds=float(second)))
        quiet.show(replace(SNAPSHOT, seconds=float(second)))
    live.end()
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().count("\r") == 30
    assert len(log.getvalue().splitlines()) == 3


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_waited_for_stands_on_a_line_of_its_own_once(terminal):
    stream = io.StringIO()
    printer = ProgressPrinter(stream, terminal)
    for why in (None, "m is cold", "m is cold", "m is unavailable", None, "m is cold"):
        printer.show(replace(SNAPSHOT, seconds=1.0, waiting=why))
    said = [line for line in stream.getvalue().splitlines() if line.startswith("embedfleet: ")]
    reasons = ["m is cold", "m is unavailable", "m is cold"]
    assert said == [f"embedfleet: waiting: {why}" for why in reasons]


def found_by(stalling: StallDetector, tally: Progress, now: float) -> str | None:
    stalling.reason(tally, now)
    if stalling._thread:
        stalling._thread.join()
    return stalling.reason(tally, now)


def test_the_service_is_asked_while_nothing_moves():
    asked = []
    stalling = StallDetector(lambda: asked.append(1) or f"reason {len(asked)}", 0.0)
    seen = [found_by(stalling, Progress(replicas=n), 3.0 * n) for n in range(8)]
    assert seen == [None] * 4 + ["reason 1"] * 4
    assert found_by(stalling, Progress(), 22.0) == "reason 2"
    assert found_by(stalling, Progress(texts=1), 22.5) is None
    assert found_by(stalling, Progress(texts=1), 32.0) is None
    assert len(asked) == 2


def test_one_question_at_a_time():
    answer, asked = threading.Event(), []
    stalling = StallDetector(lambda: asked.append(1) or str(answer.wait(30)), 0.0)
    for now in (10.0, 20.0, 30.0):
        assert stalling.reason(Progress(), now) is None
    assert len(asked) == 1
    assert stalling.reason(Progress(texts=1), 31.0) is None
    answer.set()
    stalling._thread.join()
    assert stalling.reason(Progress(texts=1), 32.0) is None  # it was asked before something moved
