"""Odd files through real jobs: every file is read or named, every row is encoded or rejected."""

from __future__ import annotations

import gzip
import json

import pytest
import ray.data
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.write.output import open_output
from testing.encoding import counts, encode, rejects_of
from testing.shared_service import join

MODEL = "hashed"
LINES = {
    "good": '{"id": "good", "text": "a text", "n": 1.5}',
    "nan": '{"id": "nan", "text": "b", "n": NaN}',
    "twice": '{"id": "twice", "text": "c", "text": "d"}',
    "null": '{"id": "null", "text": null}',
    "broken": '{"id": "broken", "te',
}
BIG = json.dumps({"id": "big", "text": "word " * 400_000})  # 2 MB


def test_every_file_is_read_or_named_and_every_row_encoded_or_rejected(service, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (folder / "0.jsonl.gz").write_bytes(gzip.compress(b""))  # as Spark writes it, and first
    (folder / "1.jsonl").write_text("\n  \n")
    (folder / "2.jsonl").write_text("\n".join([*LINES.values(), "", BIG]))
    (folder / "sub" / "3.jsonlines").write_text('{"id": "other", "text": "e", "n": 2}\n')
    for name in ("_SUCCESS", ".2.jsonl.crc", "README.md", "sub/notes.md", "LICENSE"):
        (folder / name).touch()
    files = [path for path in folder.rglob("*") if path.is_file()]
    summary = encode(service, folder, out, MODEL, id_column="id", keep=("n",))
    assert counts(summary) == (len(LINES) + 2, 3, 4)
    assert summary.not_read == "5 files not read: 2 .md, 2 hidden, 1 without an ending"
    assert len(summary.manifest.inputs) + 5 == len(files)
    ids = pq.read_table(out)["id"].to_pylist()
    assert sorted(ids) == ["good", "nan", "other"]  # the order of files is that of their digests
    reasons = list(rejects_of(out).values())
    assert sorted(reason.split(":")[0] for reason in reasons) == [
        "broken record",
        "broken record",
        "null",
        "over the model's limit of 256 tokens",
    ]
    assert sum(summary.manifest.counts.reasons.values()) == 4
    join(service)
    assert ray.data.read_parquet(str(out)).count() == 3


def test_a_second_job_is_refused_while_the_first_one_works(service, tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    job = (service, tmp_path / "a.txt", tmp_path / "out")
    first = open_output(str(tmp_path / "out"), "parquet").lock()
    second = pytest.raises(JobError, match=r"another job is writing to .*out: process \d+ of")
    with first.held(print), second:
        encode(*job, MODEL)
    assert counts(encode(*job, MODEL)) == (1, 1, 0)
    locks = pafs.FileSelector(str(tmp_path / "out.job" / "locks"))
    assert not pafs.LocalFileSystem().get_file_info(locks)
