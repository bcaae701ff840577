"""Lines of a batch's input, good and bad."""

from __future__ import annotations

import io
import json

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.batch_runner.lines import (
    Line,
    answer_line,
    fault_line,
    raw_lines,
    read_line,
)
from deployments.batches.states import Problem

URL = "/v1/embeddings"
GOOD = {"custom_id": "a", "method": "POST", "url": URL, "body": {"input": "x", "model": "m"}}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def line(raw: bytes, number: int = 1) -> Line | None:
    return read_line(raw, number, URL)


def without(field: str) -> dict:
    return {name: value for name, value in GOOD.items() if name != field}


BAD = {
    "invalid_json_line": [
        b"not json",
        b'{"custom_id": "a"',
        b'["custom_id"]',
        b'"text"',
        b"null",
        b"[" * 100_000,
        b'{"custom_id": "a\xff"}',
        json.dumps(GOOD).encode() + b" {}",
        json.dumps(GOOD).encode("utf-16"),
    ],
    "missing_required_parameter": [
        without("custom_id"),
        {**GOOD, "custom_id": None},
        without("body"),
        {**GOOD, "body": "x"},
        {**GOOD, "body": ["x"]},
        {**GOOD, "body": None},
    ],
    "invalid_custom_id": [
        {**GOOD, "custom_id": 7},
        {**GOOD, "custom_id": ""},
        {**GOOD, "custom_id": "x" * 513},
        {**GOOD, "custom_id": ["a"]},
        {**GOOD, "custom_id": "\ud800"},
    ],
    "invalid_method": [without("method"), {**GOOD, "method": "GET"}, {**GOOD, "method": 1}],
    "invalid_url": [without("url"), {**GOOD, "url": "/v1/chat/completions"}, {**GOOD, "url": None}],
}
EVERY_BAD = [(code, bad) for code, lines in BAD.items() for bad in lines]


@pytest.mark.parametrize(("code", "bad"), EVERY_BAD)
def test_each_kind_of_bad_line_has_its_code(code, bad):
    raw = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    read = line(raw, 7)
    assert read is not None
    assert read.fault is not None
    assert read.fault.code == code
    result = orjson.loads(fault_line("batch_1", read, read.fault))
    assert result["response"] is None
    assert result["error"]["code"] == code
    assert result["error"]["line"] == 7
    known = code not in ("invalid_json_line", "invalid_custom_id") and isinstance(bad, dict)
    assert result["custom_id"] == (bad.get("custom_id") if known else None)


@given(st.binary() | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_a_line_holds_it_is_blank_a_fault_or_a_request(raw):
    read = line(raw, 2)
    if read is None:
        assert not raw.strip()
    else:
        assert read.fault is not None  # none of these has all fields
        json.loads(fault_line("batch_1", read, read.fault))


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4))
def test_the_body_keeps_its_values(body):
    read = line(json.dumps({**GOOD, "body": body}).encode())
    assert read is not None
    assert read.fault is None
    assert read.custom_id == "a"
    assert json.dumps(json.loads(read.body)) == json.dumps(body)  # NaN is not equal to itself


def test_a_mark_of_the_byte_order_is_skipped_at_the_start_only():
    raw = b"\xef\xbb\xbf" + json.dumps(GOOD).encode()
    assert line(raw, 1).custom_id == "a"
    assert line(raw, 2).fault.code == "invalid_json_line"


def test_where_json_ends_is_a_place_in_the_line():
    assert line(b'{"a": 1', 7).fault.message.endswith("at character 8")


@pytest.mark.parametrize("blank", [b"", b"\n", b"  \t\r\n"])
def test_blank_lines_are_nothing(blank):
    assert line(blank) is None


def test_a_body_that_can_be_read_but_not_written_is_a_fault():
    deep = line(json.dumps(GOOD).encode().replace(b'"x"', b"[" * 280 + b"]" * 280))
    assert (deep.custom_id, deep.fault.code, deep.fault.param) == (
        "a",
        "invalid_json_line",
        "body",
    )


def test_the_number_of_texts_is_seen():
    for value, texts in (("x", 1), (["a", "b"], 2), ([[1, 2], [3]], 2), (7, 1)):
        assert line(json.dumps({**GOOD, "body": {"input": value}}).encode()).texts == texts


@given(
    st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=8),
    st.booleans(),
    st.integers(1, 50),
)
def test_a_stream_is_divided_at_line_ends(contents, ends, longest):
    whole = b"\n".join(contents) + (b"\n" if ends and contents else b"")
    expected = io.BytesIO(whole).readlines()
    read = list(raw_lines(pa.BufferReader(whole), 5, longest))
    assert [number for number, _, _ in read] == list(range(5, 5 + len(expected)))
    assert [length for _, length, _ in read] == [len(raw) for raw in expected]
    assert [raw for _, _, raw in read] == [r if len(r) <= longest else None for r in expected]


def test_a_line_that_is_too_long_is_not_held_in_memory():
    whole = b"x" * 5_000_000 + b"\n" + json.dumps(GOOD).encode()
    (_, length, raw), (number, _, second) = raw_lines(pa.BufferReader(whole), 1, 1_000)
    assert (length, raw) == (5_000_001, None)
    assert line(raw, 1).fault.code == "line_too_long"
    assert line(second, number).custom_id == "a"


def test_the_results_are_lines_of_json_as_openai_writes_them():
    request = Line(3, 'a "quoted" id\n', b"{}")
    written = answer_line("batch_0f", request, 200, b'{"object":"list"}')
    assert written.count(b"\n") == 1
    assert json.loads(written) == {
        "id": "batch_req_0f_3",
        "custom_id": 'a "quoted" id\n',
        "response": {
            "status_code": 200,
            "request_id": "batch_req_0f_3",
            "body": {"object": "list"},
        },
        "error": None,
    }
    refused = fault_line("batch_0f", request, Problem("invalid_url", "wrong", "url"))
    assert json.loads(refused) == {
        "id": "batch_req_0f_3",
        "custom_id": 'a "quoted" id\n',
        "response": None,
        "error": {"code": "invalid_url", "message": "wrong", "param": "url", "line": 3},
    }
