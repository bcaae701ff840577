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
    RateMeter,
    Rates,
    Snapshot,
    clock,
    progress_line,
    reasons_line,
    short_number,
)
from cluster.corpus.rejects import count_kinds, derived_id, excerpt, text_fault
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
    # a chunk that is shorter than the overlap is repeated but for its beginning
    assert token_ranges([0, 1, 2, 2, 2], 4, 3) == [(0, 2), (1, 5)]


def test_chunks_are_ranges_of_characters():
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


def test_a_manifest_is_read_as_it_was_written():
    wanted = replace(manifest(keep=("n",)), counts=Counts(rows=3), finished=True)
    assert Manifest.from_json(wanted.as_json()) == wanted
    check_resumable(Manifest.from_json(wanted.as_json()), manifest(keep=("n",)), "out", ())
    assert Manifest.from_json(b"{}") is None


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


def test_new_and_corrected_files_are_accepted():
    new = replace(FILE, name="b.csv")
    check_resumable(manifest(), manifest(files=(FILE, new)), "out", {FILE.digest})
    both = manifest(files=(FILE, new))
    mended = manifest(files=(FILE, replace(new, size=11)))
    check_resumable(both, mended, "out", {FILE.digest})
    check_resumable(both, manifest(), "out", {FILE.digest})
    with pytest.raises(JobError, match=r"b.csv has changed"):
        check_resumable(both, mended, "out", {FILE.digest, new.digest})


def test_an_output_without_parts_takes_other_options():
    check_resumable(manifest(), manifest(dtype="float16", chunk=100), "out", ())


def test_where_the_model_came_from_does_not_matter():
    earlier = manifest()
    moved = replace(earlier, identity=replace(earlier.identity, repo="/models/e5-small"))
    check_resumable(earlier, moved, "out", {FILE.digest})


def test_other_types_of_the_carried_columns_are_refused():
    one = manifest(carried=pa.schema([("n", pa.int32()), ("s", pa.string())]))
    other = manifest(carried=pa.schema([("n", pa.int64()), ("s", pa.string())]))
    one = Manifest.from_json(one.as_json())
    assert one.settings["columns"] == {"n": "int32", "s": "string"}
    with pytest.raises(JobError, match=r"columns of other types \('n' int32, now int64\)"):
        check_resumable(one, other, "out", {FILE.digest})
    check_resumable(one, other, "out", ())


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


SNAPSHOT = Snapshot(
    Progress(12_288, 1_506_000, 400.0, 10_000, 500.0, 2, {"null": 2, "empty": 1}),
    total=1_000.0,
    seconds=60.0,
    kept=200.0,
    rates=Rates(210.0, 25_100.0, 8.0),
)


def test_the_progress_line():
    assert progress_line(SNAPSHOT) == (
        " 60% ████████████          10,000 of about 20,000 rows  25.1k tokens/s (2 × 12.6k)  "
        "210 texts/s  3 rejected (2 null, 1 empty)  1:00, 0:50 left"
    )
    priced = replace(SNAPSHOT, price=2.0, replica_hours=0.03)
    assert progress_line(priced).endswith("cost 0.06")
    assert "10,000 of 15,000 rows" in progress_line(replace(SNAPSHOT, rows=15_000))


def test_the_progress_line_at_the_start():
    start = Snapshot(Progress(replicas=1), 1_000.0, 3.0, rows=500)
    assert progress_line(start) == f"  0% {'':<20}  0 of 500 rows  starting workers  0:03"
    assert "starting" not in progress_line(replace(start, waiting="m is cold"))


def test_the_progress_line_at_the_start_of_a_job_that_continues():
    start = Snapshot(Progress(replicas=1), 1_000.0, 3.0, kept=90.0, rows=500)
    assert progress_line(start) == f"  9% {'█':<20}  starting workers  0:03"
    done = replace(start, kept=1_000.0)
    assert progress_line(done) == f"100% {'█' * 20}  checking the parts in place  0:03"


def test_the_progress_line_at_the_end():
    done = Progress(20_000, 3_000_000, 1_000.0, 20_000, 1_000.0)
    line = progress_line(Snapshot(done, 1_000.0, 100.0))
    assert line == f"100% {'█' * 20}  20,000 of 20,000 rows  1:40"


def test_rates_are_those_of_the_last_seconds():
    meter = RateMeter()
    assert meter.rates(Progress(), 100.0) == Rates()  # the start does not count
    for second in range(1, 61):
        tokens = 1_000 * second if second <= 30 else 30_000 + 100 * (second - 30)
        rates = meter.rates(Progress(second, tokens, weight=2.0 * second), 100.0 + second)
    assert (rates.texts, rates.tokens, rates.weight) == (1.0, 100.0, 2.0)


def test_reasons_are_counted_by_their_kind():
    reasons = ["null", "duplicate id, first in a", "duplicate id, first in b", "not text: int"]
    assert count_kinds(reasons) == {"null": 1, "duplicate id": 2, "not text": 1}
    many = {f"reason {n}": n for n in range(1, 6)}
    assert reasons_line(many) == "15 rejected (5 reason 5, 4 reason 4, 3 reason 3, …)"


def test_counts_add_and_subtract():
    one = Counts(rows=3, rejected=2, reasons={"null": 2})
    other = Counts(rows=1, rejected=1, reasons={"null": 1, "empty": 1})
    assert other + one.minus(other) == one
    assert one.minus(one) == Counts()


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
def test_a_reason_for_waiting_is_printed_once_on_its_own_line(terminal):
    stream = io.StringIO()
    printer = ProgressPrinter(stream, terminal)
    for why in (None, "m is cold", "m is cold", "m is unavailable", None, "m is cold"):
        printer.show(replace(SNAPSHOT, seconds=1.0, waiting=why))
    said = [line for line in stream.getvalue().splitlines() if line.startswith("embedfleet: ")]
    reasons = ["m is cold", "m is unavailable", "m is cold"]
    assert said == [f"embedfleet: waiting: {why}" for why in reasons]


def test_a_line_that_is_wider_than_the_terminal_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = io.StringIO()
    ProgressPrinter(terminal, True).show(SNAPSHOT)
    assert len(terminal.getvalue().strip("\r")) == 39


def reason_at(stall: StallDetector, progress: Progress, now: float) -> str | None:
    stall.reason(progress, now)
    if stall._thread:
        stall._thread.join()
    return stall.reason(progress, now)


def test_the_service_is_asked_while_nothing_moves():
    questions = []
    stall = StallDetector(lambda: questions.append(1) or f"reason {len(questions)}", 0.0)
    seen = [reason_at(stall, Progress(replicas=n), 3.0 * n) for n in range(8)]
    assert seen == [None] * 4 + ["reason 1"] * 4
    assert reason_at(stall, Progress(), 22.0) == "reason 2"
    assert reason_at(stall, Progress(texts=1), 22.5) is None
    assert reason_at(stall, Progress(texts=1), 32.0) is None
    assert len(questions) == 2


def test_one_question_at_a_time():
    answer, questions = threading.Event(), []
    stall = StallDetector(lambda: questions.append(1) or str(answer.wait(30)), 0.0)
    for now in (10.0, 20.0, 30.0):
        assert stall.reason(Progress(), now) is None
    assert len(questions) == 1
    assert stall.reason(Progress(texts=1), 31.0) is None
    answer.set()
    stall._thread.join()
    assert stall.reason(Progress(texts=1), 32.0) is None  # it was asked before something moved
