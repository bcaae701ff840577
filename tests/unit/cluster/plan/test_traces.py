"""Traces from CSV and Prometheus, and what is said of broken ones."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from cluster.plan.errors import PlanError
from cluster.plan.traces import read_trace


@pytest.fixture
def read(tmp_path):
    def one(content: object, tokens_per_request: float | None = None):
        file = tmp_path / "trace"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_trace(file, tokens_per_request)

    return one


def answer(*series: list, **changed: object) -> dict:
    """What Prometheus answers to a range query."""
    result = [{"metric": {"model": str(n)}, "values": values} for n, values in enumerate(series)]
    data = {"resultType": "matrix", "result": result, **changed}
    return {"status": "success", "data": data}


def test_rows_at_any_time_are_requests(read):
    trace = read("time,tokens,model\n10.2,300,a\n10.9,100,a\n13.0,50,b\n")
    assert trace.traffic.tokens_per_s.tolist() == [400, 0, 0, 50]
    assert trace.traffic.tokens_per_request.tolist() == [200, 150, 150, 50]
    assert "request" in trace.reading


def test_rows_at_a_fixed_interval_are_sums_of_it(read):
    trace = read("time,tokens\n0,600\n60,1200\n180,60\n", tokens_per_request=300)
    rates = trace.traffic.tokens_per_s
    assert len(rates) == 240
    assert [rates[0], rates[59], rates[60], rates[119], rates[120], rates[180]] == [
        10,
        10,
        20,
        20,
        0,
        1,
    ]
    assert rates.sum() == 1_860
    assert set(trace.traffic.tokens_per_request) == {300}


def test_the_size_of_requests_is_unknown_if_nobody_says_it(read):
    assert np.isnan(read("time,tokens\n0,600\n60,1200\n").traffic.tokens_per_request).all()


def test_times_may_be_iso_8601(read):
    trace = read("time,tokens\n2026-11-30T09:00:00Z,60\n2026-11-30T09:01:00+00:00,120\n")
    assert len(trace.traffic) == 120
    assert trace.traffic.tokens_per_s[-1] == 2


def test_a_byte_order_mark_and_blank_lines_do_no_harm(read):
    trace = read("\ufefftime,tokens\n1,5\n\n1,5\n")
    assert trace.traffic.tokens_per_s.tolist() == [10]


def test_the_series_of_prometheus_add_up(read):
    trace = read(answer([[100, "5"], [130, "7"]], [[130, "1.5"]]), 250)
    rates = trace.traffic.tokens_per_s
    assert len(rates) == 60
    assert (rates[0], rates[30]) == (5, 8.5)
    assert "2 series" in trace.reading


BROKEN_CSV = {
    "": "time",
    "tokens,when\n1,2\n": "time",
    "time,texts\n1,2\n": "tokens",
    "time,tokens\n1,2\n": "rows",
    "time,tokens\nnoon,2\n3,4\n": "row 1.*time",
    "time,tokens\n1,2\n3,many\n": "row 2.*tokens",
    "time,tokens\n1,2\n3,-4\n": "row 2.*tokens",
    "time,tokens\n1,2\n3,nan\n": "row 2.*tokens",
    "time,tokens\n1,2\n3\n": "row 2.*tokens",
    "time,tokens\n3,2\n1,2\n": "row 2.*time",
    "time,tokens\n1,0\n1.5,0\n": "tokens",
    "time,tokens\n0,0\n60,0\n": "0",
    "time,tokens\n0,1\n1764500000000,1\n": "14",
}


@pytest.mark.parametrize("content", BROKEN_CSV)
def test_broken_csv_is_refused_by_field(read, content):
    with pytest.raises(PlanError, match=f"--trace.*{BROKEN_CSV[content]}"):
        read(content)


BROKEN_JSON = {
    '{"status": ': "JSON",
    json.dumps({"status": "error", "error": "parse error"}): "status",
    json.dumps(answer([[1, "2"], [2, "2"]], resultType="vector")): "resultType",
    json.dumps(answer()): "result",
    json.dumps(answer(resultType="matrix", result=[{"metric": {}}])): r"result\[0\].values",
    json.dumps(answer([[1, "2"], [2, "NaN"]])): r"values\[1\]",
    json.dumps(answer([[1, "2"], [2]])): r"values\[1\]",
    json.dumps(answer([[1, "2"], [2, "-1"]])): r"values\[1\]",
    json.dumps(answer([[1, "2"], [2, None]])): r"values\[1\]",
    json.dumps(answer([[1, "2"]])): "rows",
    json.dumps(answer([[1, "0"], [61, "0"]])): "0",
}


@pytest.mark.parametrize("content", BROKEN_JSON)
def test_a_broken_answer_of_prometheus_is_refused_by_field(read, content):
    with pytest.raises(PlanError, match=f"--trace.*{BROKEN_JSON[content]}"):
        read(content)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"--trace.*nowhere\.csv"):
        read_trace(tmp_path / "nowhere.csv", None)


def test_no_curve_has_nan_where_traffic_is_known(read):
    trace = read("time,tokens\n0,1\n5,0\n5.5,3\n")
    assert not any(math.isnan(value) for value in trace.traffic.tokens_per_request)
    assert (trace.traffic.tokens_per_request > 0).all()
