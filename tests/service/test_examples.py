"""Each program in ``examples/`` runs against the service and prints what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from testing.encoding import command, encode
from testing.running import API_KEY, RunningService

EXAMPLES = Path(__file__).parents[2] / "examples"
CORPUS = EXAMPLES / "corpus.jsonl"
MODEL = "all-MiniLM-L6-v2"


def run(service: RunningService, folder: Path, name: str, *args: object) -> str:
    """The output of an example, started in ``folder``."""
    _, environment = command(service)  # the address of the service's Ray
    process = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, args)],
        cwd=folder,
        env={**environment, "EMBEDFLEET_API_KEY": API_KEY, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def folder(service, tmp_path_factory) -> Path:
    """A folder in which the examples' corpus has been encoded, as their docstrings say."""
    folder = tmp_path_factory.mktemp("examples")
    options = ["--model", MODEL, "--id-column", "id", "--keep", "text"]
    process = encode(service, CORPUS, folder / "vectors", *options)
    assert process.returncode == 0, process.stderr
    return folder


def test_search_with_lancedb_finds_the_document(service, folder):
    args = ["Why does dough rise?", "What makes the sea come and go?", "--model", MODEL]
    lines = run(service, folder, "search_with_lancedb.py", "--url", service.url, *args).splitlines()
    best = [lines[lines.index(query) + 1] for query in args[:2]]
    assert "bread" in best[0]
    assert "tides" in best[1]


def test_ray_data_pipeline_finds_the_near_duplicates(service, folder):
    # the corpus is encoded already, so this reads it on
    output = run(service, folder, "ray_data_pipeline.py", CORPUS, "vectors", "--model", MODEL)
    pairs = set(re.findall(r"(\S+) ~ (\S+)", output))
    assert pairs == {("paris", "paris-again"), ("photosynthesis", "photosynthesis-again")}


def test_rag_retriever_answers_and_recovers_from_a_lost_space(service, folder):
    for _ in ("index", "load"):
        output = run(service, folder, "rag_retriever.py", "--url", service.url)
        assert (folder / "index.npz").exists()
        assert re.search(r"in space \S+\n  0\.\d+  .*Paris", output)
        assert "409 embedding_space_mismatch" in output
        assert "Paris" in output.splitlines()[-1]
