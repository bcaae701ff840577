"""Ids that cannot be read: their rows are rejected, and nothing else."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import Part
from cluster.corpus.prepare.documents import Documents, Item
from cluster.corpus.read.rows import read_part
from cluster.corpus.settings import Settings
from cluster.corpus.write.assemble import assemble

BAD = pa.StringArray.from_buffers(
    3, pa.py_buffer(struct.pack("<4i", 0, 2, 5, 6)), pa.py_buffer(b"abcd\xffe")
)


def assembled(folder, ids, rejected=()):
    """The table and the rejects of three texts with these ids, of which some are rejected already."""
    pq.write_table(pa.table({"text": ["x", "y", "z"], "id": ids}), folder / "a.parquet")
    settings = Settings(str(folder / "a.parquet"), "out", "m", id_column="id")
    _, files, _ = find_inputs(settings.input)
    part = Part(files[0], 0, 3, 3)
    carried = pa.schema([("id", ids.type)])
    rows = read_part(pafs.LocalFileSystem(), part, "text", carried)
    documents = Documents(
        [Item(row, 0, 1) for row in range(3)], [], dict.fromkeys(rejected, "too long")
    )
    vectors = np.zeros((3, 1), np.float32)
    return assemble(part.file.name, rows, documents, vectors, settings)


@pytest.mark.parametrize("ids", [BAD, BAD.dictionary_encode()], ids=["plain", "dictionary"])
def test_an_id_that_is_not_utf8_rejects_its_row(tmp_path, ids):
    table, rejects, counts = assembled(tmp_path, ids)
    assert table["id"].to_pylist() == ["ab", "e"]
    (row,) = rejects.to_pylist()
    assert (row["reason"], row["text"]) == ("not valid UTF-8 in the id column 'id'", "y")
    assert len(row["id"]) == 32
    assert (counts.written, counts.rejected) == (2, 1)


def test_ids_of_bytes_are_taken_as_they_are(tmp_path):
    table, rejects, _ = assembled(tmp_path, pa.array([b"ab", b"cd\xff", None], pa.binary()))
    assert table["id"].to_pylist() == [b"ab", b"cd\xff"]
    assert rejects["reason"].to_pylist() == ["null in the id column 'id'"]


def test_a_rejected_row_leaves_its_id_to_the_next_row(tmp_path):
    table, rejects, _ = assembled(tmp_path, pa.array(["a", "a", "a"]), rejected=[0])
    assert table["id"].to_pylist() == ["a"]
    assert rejects["reason"].to_pylist() == ["too long", "duplicate id, first in a.parquet"]
    assert rejects["text"].to_pylist() == ["x", "z"]
