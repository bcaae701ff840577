"""What tests of the corpus job share: the command as users run it, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from testing.running import RunningService


def command(service: RunningService, *args: object) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of ``embedfleet encode`` beside this service."""
    line = [sys.executable, "-m", "cluster.cli", "encode", *map(str, args)]
    # a Ray that was started on its own asks for this machine's token; with an address one has to say so
    ours = {"RAY_ADDRESS": service.ray_address, "RAY_AUTH_MODE": "token"}
    return line, {**os.environ, **ours}


def encode(service: RunningService, *args: object) -> subprocess.CompletedProcess[str]:
    line, environment = command(service, *args)
    return subprocess.run(
        line, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def vectors_of(table: pa.Table) -> np.ndarray:
    """The embedding column as float32 ``(rows, dimensions)``."""
    column = table["embedding"].combine_chunks()
    return np.asarray(column.flatten(), np.float32).reshape(len(table), -1)


def rejects_of(output: Path) -> dict[str, str]:
    """Reasons by id."""
    files = sorted((output / "_rejects").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["reason"] for row in rows}


def check_exactly_once(output: Path, ids: set[str]) -> None:
    """Each id is in the output or in the rejects, once, and every file can be read."""
    written = pq.read_table(output)["id"].to_pylist()
    rejected = list(rejects_of(output))
    assert len(written) + len(rejected) == len(ids)
    assert {*written, *rejected} == ids
    assert not (output / "_tmp").exists()
