"""`embedfleet score` through the running service: the scores of `/v1/rerank`, once for each pair."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.job import score_corpus
from cluster.corpus.settings import ScoreSettings
from testing.docstrings import all_docstrings
from testing.encoding import check_exactly_once, encode, run_command
from testing.running import RunningService
from testing.shared_service import join
from tests.service.conftest import REAL, RERANKER
from tests.support.killing import outcome, stamps, start, wait_for_parts

PAIRS = 600
QUERIES = ["how does a parser read its input", "which file is opened", "raise an error " * 30]


@pytest.fixture(scope="module")
def rows():
    """Pairs of mixed length, of which every hundredth has no document."""
    documents: list[str | None] = list(all_docstrings()[:PAIRS])
    documents[7::100] = [None] * len(documents[7::100])
    numbers = range(PAIRS)
    return [
        {"id": f"p{n}", "query": QUERIES[n % 3], "document": documents[n], "n": n} for n in numbers
    ]


@pytest.fixture(scope="module")
def source(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def reranked(service: RunningService, rows, **fields):
    """What `/v1/rerank` answers for pairs of one query, by their ids."""
    documents = [row["document"] for row in rows]
    body = {"model": RERANKER, "query": rows[0]["query"], "documents": documents, **fields}
    with service.client() as http:
        answer = http.post("/v1/rerank", json=body).raise_for_status().json()
    return {rows[r["index"]]["id"]: r["relevance_score"] for r in answer["results"]}


def test_a_killed_job_continues_and_scores_are_those_of_the_api(service, rows, source, tmp_path):
    out = tmp_path / "out"
    arguments = (source, out, "--model", RERANKER, "--id-column", "id", "--truncate")
    arguments += ("--part-mb", 0.01, "--keep", "n")
    job = start(service, *arguments, name="score")
    wait_for_parts(job, out, 3)
    job.kill()
    outcome(job)
    before = stamps(out)
    again = run_command(service, *arguments, name="score")
    assert again.returncode == 0, again.stderr
    null = PAIRS // 100
    assert f"{PAIRS:,} rows in, {PAIRS - null:,} scored, {null} rejected" in again.stdout
    now = stamps(out)
    assert len(now) > len(before) >= 3
    assert {file: now[file] for file in before} == before
    check_exactly_once(out, {row["id"] for row in rows})
    table = pq.read_table(out)
    assert table.schema.field("score").type == pa.float32()
    scores = dict(zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True))
    for first in range(3):
        valid = [row for row in rows[first:150:3] if row["document"]]
        for pair, score in reranked(service, valid, truncate=True).items():
            assert scores[pair] == pytest.approx(score, abs=1e-5)
    assert np.std([*scores.values()]) > 0.001


def test_raw_scores_from_python(service, rows, tmp_path):
    join(service)
    few = [row for row in rows[:30:3] if row["document"]]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, few)))
    options = {"id_column": "id", "raw_scores": True, "truncate": True}
    settings = ScoreSettings(str(tmp_path / "in.jsonl"), str(tmp_path / "out"), RERANKER, **options)
    assert score_corpus(settings).manifest.counts.documents == len(few)
    table = pq.read_table(tmp_path / "out")
    logits = reranked(service, few, raw_scores=True, truncate=True)
    for pair, score in zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True):
        assert score == pytest.approx(logits[pair], abs=1e-5)


def test_a_model_of_the_wrong_kind_is_refused_with_those_that_would_do(service, source, tmp_path):
    join(service)
    with pytest.raises(JobError, match=RERANKER):
        score_corpus(ScoreSettings(str(source), str(tmp_path / "out"), REAL))
    with pytest.raises(JobError, match=REAL):
        encode(service, source, tmp_path / "out", RERANKER, text_column="document")
    assert not list((tmp_path / "out").glob("*.parquet"))
