"""Sparse vectors from a replica to HTTP and to a corpus job's files; the engine hashes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pyarrow import parquet as pq

from testing.docstrings import docstrings
from testing.encoding import run_command
from testing.running import RunningService

MODEL = "sparse"
TEXTS = docstrings(300, longest_words=60)  # more than one call holds


@pytest.fixture(scope="module")
def vectors(service: RunningService) -> list[dict[str, list[float]]]:
    """What HTTP answers for all texts in one request."""
    return embedded(service, TEXTS)


def embedded(service: RunningService, texts: list[str]) -> list[dict[str, list[float]]]:
    body = {"model": MODEL, "input": texts, "encoding_format": "sparse", "truncate": True}
    with service.client() as http:
        response = http.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["x-model"] == MODEL
    return [item["embedding"] for item in response.json()["data"]]


def test_each_text_gets_its_own_vector_alone_and_among_others(service, vectors):
    for row in (0, 1, 150, 299):
        assert embedded(service, [TEXTS[row]]) == [vectors[row]]
    for vector in vectors:
        assert 300 < len(vector["indices"]) == len(vector["values"]) < 1_200
        assert (np.diff(vector["indices"]) > 0).all()
        assert min(vector["values"]) > 0
    assert len({tuple(vector["indices"]) for vector in vectors}) > 0.9 * len(TEXTS)


def test_a_corpus_job_writes_what_http_answers(service, vectors, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(
        "\n".join(json.dumps({"id": str(n), "text": text}) for n, text in enumerate(TEXTS))
    )
    arguments = ("--model", MODEL, "--id-column", "id", "--truncate")
    run = run_command(service, source, out, *arguments)
    assert run.returncode == 0, run.stderr
    rows = {int(row["id"]): row for row in pq.read_table(out).to_pylist()}
    assert len(rows) == len(TEXTS)
    for number, vector in enumerate(vectors):
        assert rows[number]["indices"] == vector["indices"]
        np.testing.assert_array_equal(rows[number]["values"], np.float32(vector["values"]))


def test_the_model_says_its_kind_and_refuses_dense_vectors(service):
    with service.client() as http:
        item = http.get(f"/v1/models/{MODEL}").json()
        refused = http.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
    assert (item["kind"], item["dimension"]) == ("sparse", 30_522)
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("wrong_model_kind", "model")
