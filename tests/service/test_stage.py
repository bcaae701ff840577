"""`embedfleet.data.embed` inside pipelines: each row once, in order, whatever is killed."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import ray
from pyarrow import parquet as pq

import embedfleet
from embedfleet.data import JobError
from testing.docstrings import all_docstrings
from testing.encoding import vectors_of
from testing.processes import kill, replicas
from testing.shared_service import join
from testing.waiting import until
from tests.service.conftest import SLOW_TOKENS_PER_S
from tests.service.test_encode import online
from tests.support.holding import Holder

MODEL = "hashed"
ROWS = 400
LONG = "word " * 300


def corpus(rows):
    """Texts of which every 50th is null, and every 50th too long; the others are within 256 tokens."""
    texts = [text[:200] for text in all_docstrings()[:rows]]
    texts[7::50] = [None] * len(texts[7::50])
    texts[9::50] = [LONG] * len(texts[9::50])
    return pa.table({"n": range(rows), "body": texts})


@pytest.fixture
def in_order(service):
    """Joins the service's Ray; blocks keep their order."""
    join(service)
    context = ray.data.DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    yield
    context.execution_options.preserve_order, context.enable_progress_bars = before


def check(table, texts):
    """Asserts that each row is there once and in order, with a vector or with the reason."""
    assert table["n"].to_pylist() == list(range(len(texts)))
    reasons = table["embedding_error"].to_pylist()
    for row, text in enumerate(texts):
        reason = {None: "null", LONG: "over the model's limit of 256 tokens"}.get(text)
        assert (reasons[row] or "").startswith(reason or ""), row
        assert (reasons[row] is None) == (reason is None) == table["embedding"][row].is_valid


@pytest.fixture
def one_free_core(in_order):
    """Leaves the cluster one core, which Ray Data's own tasks need."""
    holder = until(hold_all_but_one_core, 30, "one core is left")
    yield
    ray.kill(holder)


def hold_all_but_one_core():
    """Returns an actor that holds the other cores, or None if a job before gave back some meanwhile."""
    taken = round(ray.available_resources()["CPU"] - 1, 4)
    assert taken >= 0
    holder = ray.remote(num_cpus=taken)(Holder).remote()
    if ray.get(holder.free.remote()) == pytest.approx(1):
        return holder
    ray.kill(holder)
    return None


def test_a_pipeline_from_parquet_to_parquet(service, one_free_core, tmp_path):
    table = corpus(ROWS)
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=100)
    dataset = ray.data.read_parquet(str(tmp_path / "in.parquet"), override_num_blocks=4)
    options = {"model": MODEL, "text_column": "body", "batch_size": 32, "concurrency": 1}
    embedfleet.data.embed(dataset, **options).write_parquet(str(tmp_path / "out"))
    result = pq.read_table(tmp_path / "out").sort_by("n")
    assert result.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    texts = table["body"].to_pylist()
    check(result, texts)
    valid = [row for row, text in enumerate(texts) if text not in (None, LONG)]
    expected = online(service, MODEL, [texts[row] for row in valid])
    np.testing.assert_allclose(vectors_of(result.take(valid)), expected, atol=1e-6)


def test_rows_keep_their_order(in_order):
    table = corpus(200)
    dataset = ray.data.from_arrow([table.slice(start, 50) for start in range(0, 200, 50)])
    embedded = embedfleet.data.embed(
        dataset, model=MODEL, text_column="body", batch_size=16, concurrency=1
    )
    tables = list(embedded.iter_batches(batch_format="pyarrow", batch_size=None))
    check(pa.concat_tables(tables), table["body"].to_pylist())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "absent"}, "absent"),
        ({"model": "tiny-reranker"}, "reranker"),
        ({"instruction": "Find"}, "instruction"),
        ({"dimensions": 7}, "384"),
        ({"text_column": "text"}, "text_column 'text'"),
        ({"embedding_column": "n"}, "column n"),
        ({"role": "answer"}, "role must be"),
        ({"batch_size": 0}, "batch_size"),
        ({"wait_s": float("nan")}, "wait_s"),
    ],
)
def test_a_refusal_names_what_is_wrong_before_anything_runs(in_order, options, named):
    dataset = ray.data.from_arrow(corpus(10))
    with pytest.raises(JobError, match=named):
        embedfleet.data.embed(dataset, **{"model": MODEL, "text_column": "body", **options})


@pytest.mark.long
def test_a_killed_replica_costs_nothing(service, in_order):
    rows = 4 * ROWS
    table = corpus(rows)
    tokens = sum(
        len(text.split()) for text in table["body"].to_pylist() if text not in (None, LONG)
    )
    assert tokens / SLOW_TOKENS_PER_S > 1  # long enough to be struck
    dataset = ray.data.from_arrow([table.slice(start, 50) for start in range(0, rows, 50)])
    embedded = embedfleet.data.embed(
        dataset, model="slow", text_column="body", batch_size=16, concurrency=1
    )
    tables: list[pa.Table] = []

    def consume() -> None:
        for batch in embedded.iter_batches(batch_format="pyarrow", batch_size=50):
            tables.append(batch)

    thread = threading.Thread(target=consume)
    thread.start()
    until(lambda: tables, 90, "the first rows")
    assert len(tables) < 8
    kill(until(lambda: replicas(service, "encoder-slow"), 30))
    thread.join(120)
    assert not thread.is_alive()
    result = pa.concat_tables(tables)
    check(result, table["body"].to_pylist())
    assert Counter(result["n"].to_pylist()).most_common(1)[0][1] == 1
