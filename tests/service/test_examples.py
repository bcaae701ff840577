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
    """A folder in which the examples' corpus has been encoded."""
    folder = tmp_path_factory.mktemp("examples")
    encode(service, CORPUS, folder / "vectors", MODEL, id_column="id", keep=("text",))
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


def test_rag_retriever_stays_in_its_space_and_recovers_when_that_is_gone(service, folder):
    url = ["--url", service.url]
    first = run(service, folder, "rag_retriever.py", *url, "--model", MODEL)
    again = run(service, folder, "rag_retriever.py", *url)  # loads the index; `auto` has a choice
    for output in (first, again):
        assert re.search(r"in space \S+\n  0\.\d+  .*Paris", output)
        assert "409 embedding_space_mismatch" in output
        assert "now in space" in output
    assert first.splitlines()[0] == again.splitlines()[0]
