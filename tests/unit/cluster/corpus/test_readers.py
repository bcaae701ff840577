"""What other programs see in an output folder: every row of vectors, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import dataset as pads
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.formats.files import InputFile
from cluster.corpus.plan.parts import Part
from cluster.corpus.rejects import Reject, reject_table
from cluster.corpus.write.manifest import Counts, Identity, Manifest, PartRecord, Source
from cluster.corpus.write.output import Output
from cluster.corpus.write.parquet import vector_column

IDENTITY = Identity("m", "r", "v", "s", "document", None, 4, True)
FILE = InputFile("/in/a.txt", "a.txt", 9, 1, "text")
ROWS = 30


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """An output of three parts and rejects; of the second part, all rows are rejected."""
    folder = tmp_path_factory.mktemp("job") / "out"
    output = Output(pafs.LocalFileSystem(), str(folder))
    output.prepare()
    for start, written, rejected in ((0, 10, 2), (10, 0, 5), (20, 20, 0)):
        counts = Counts(written + rejected, written, written, rejected)
        record = PartRecord(IDENTITY, {"columns": {}}, Source.of(FILE), counts)
        rejects = [Reject("x", "a.txt", n, "empty", "") for n in range(rejected)]
        name = Part(FILE, start, start + 10, 10).name
        output.commit(name, vectors(start, written), reject_table(rejects), record)
    output.write_manifest(Manifest(IDENTITY, {"columns": {}}, {}, finished=True))
    output.clean()
    return folder


def vectors(start: int, rows: int) -> pa.Table:
    embedding = np.random.default_rng(start).standard_normal((rows, 4), np.float32)
    ids = [f"d{n}" for n in range(start, start + rows)]
    texts = pa.array([f"text {n}" for n in range(rows)], pa.string())
    return pa.table(
        {"id": ids, "text": texts, "embedding": vector_column(embedding, "float32")},
        schema=pa.schema(
            [("id", pa.string()), ("text", pa.string()), ("embedding", pa.list_(pa.float32(), 4))]
        ),
    )


def with_pandas(folder: str) -> int:
    import pandas

    return len(pandas.read_parquet(folder))


def with_polars(folder: str) -> int:
    import polars

    assert polars.scan_parquet(folder).collect().height == len(
        polars.read_parquet(f"{folder}/**/*")
    )
    return len(polars.read_parquet(folder))


def with_duckdb(folder: str) -> int:
    import duckdb

    counts = {
        duckdb.sql(f"SELECT count(embedding) FROM read_parquet('{folder}{glob}')").fetchall()[0][0]
        for glob in ("", "/*", "/*.parquet", "/**", "/**/*.parquet")
    }
    (count,) = counts
    return count


def with_dask(folder: str) -> int:
    import dask.dataframe

    return len(dask.dataframe.read_parquet(folder).compute(scheduler="synchronous"))


def with_pyarrow(folder: str) -> int:
    assert pads.dataset(folder).count_rows() == pq.read_table(folder).num_rows
    return pads.dataset(folder).count_rows()


def with_lancedb(folder: str) -> int:
    import lancedb

    store = lancedb.connect(f"{folder}.store")
    return store.create_table("rows", pq.read_table(folder), mode="overwrite").count_rows()


READERS = [with_pandas, with_polars, with_duckdb, with_dask, with_pyarrow, with_lancedb]


@pytest.mark.parametrize("read", READERS)
def test_a_reader_finds_every_row_of_vectors_and_no_other(output, read: Callable[[str], int]):
    assert read(str(output)) == ROWS


@pytest.mark.parametrize("how", ["'{0}'", "'parquet', data_dir='{0}'"])
def test_datasets_finds_every_row_of_vectors_and_no_other(output, tmp_path, how):
    """In a process of its own: the library registers Arrow types with the whole process."""
    code = f"import datasets; print(datasets.load_dataset({how.format(output)})['train'].num_rows)"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.stdout.split() == [str(ROWS)], run.stderr


def test_all_files_have_one_schema_and_say_what_they_are(output):
    schemas = [pq.read_schema(file) for file in output.iterdir()]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    spaces = {json.loads(schema.metadata[b"embedfleet"])["space_id"] for schema in schemas}
    assert spaces == {"s"}
