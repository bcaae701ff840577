"""Runs corpus jobs for tests, and checks their output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from cluster.corpus.execution import Run
from cluster.corpus.job import Summary, encode_corpus
from cluster.corpus.settings import Settings
from testing.running import RunningService
from testing.shared_service import join


def encode(
    service: RunningService, source: object, output: object, model: str, **settings: Any
) -> Summary:
    """Runs a job in this process. Raises what `encode_corpus` raises."""
    join(service)
    run = Run(service.ray_address)
    return encode_corpus(Settings(str(source), str(output), model, **settings), run)


def command(
    service: RunningService, *args: object, name: str = "encode"
) -> tuple[list[str], dict[str, str]]:
    """Returns the command line and environment of this service's ``embedfleet encode``, or ``name``."""
    line = [sys.executable, "-m", "cluster.cli", name, *map(str, args)]
    # without RAY_AUTH_MODE, Ray sends its token only to a cluster that it finds itself
    ray = {"RAY_ADDRESS": service.ray_address, "RAY_AUTH_MODE": "token"}
    return line, {**os.environ, **ray}


def run_command(
    service: RunningService, *args: object, name: str = "encode", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs ``embedfleet encode``, or ``name``, in a new process, as users do.

    ``variables`` are added to its environment.
    """
    line, environment = command(service, *args, name=name)
    return subprocess.run(
        line,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def counts(summary: Summary) -> tuple[int, int, int]:
    """Returns the numbers of rows that a job read, encoded and rejected."""
    all_counts = summary.manifest.counts
    return all_counts.rows, all_counts.documents, all_counts.rejected


def vectors_of(table: pa.Table) -> np.ndarray:
    """Returns the embedding column as float32 ``(rows, dimensions)``."""
    column = table["embedding"].combine_chunks()
    return np.asarray(column.flatten(), np.float32).reshape(len(table), -1)


def rejects_of(output: Path) -> dict[str, str]:
    """Returns the reason of each rejected row, by id."""
    files = sorted((job_folder(output) / "rejects").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["reason"] for row in rows}


def job_folder(output: Path) -> Path:
    """Returns the folder beside an output that holds its rejects and its manifest."""
    return output.with_name(f"{output.name}.job")


def check_exactly_once(output: Path, ids: set[str]) -> None:
    """Asserts that each id is once in the output or the rejects, and that all files are readable."""
    written = pq.read_table(output)["id"].to_pylist()
    rejected = list(rejects_of(output))
    assert len(written) + len(rejected) == len(ids)
    assert {*written, *rejected} == ids
    assert not (job_folder(output) / "tmp").exists()
