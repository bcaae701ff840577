"""Ids that occur more than once are found in any order and size, kept once, and never lost."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus import dedupe as duplicates
from cluster.corpus.dedupe import IdIndex, digest, digests, drop_duplicates
from cluster.corpus.errors import JobError
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import Part, plan_parts
from cluster.corpus.prepare.documents import Documents, Item
from cluster.corpus.read.rows import read_part
from cluster.corpus.settings import Settings
from cluster.corpus.work import Work
from cluster.corpus.write.assemble import assemble
from cluster.corpus.write.manifest import Counts, identify
from cluster.corpus.write.output import Output
from deployments.config.schema import ModelConfig
from deployments.core.models.catalog import CATALOG

MODEL = "all-MiniLM-L6-v2"
LOCAL = pafs.LocalFileSystem()


def firsts(parts: list[set[int]]) -> dict[int, dict[bytes, int]]:
    """What the index should find, with everything in memory."""
    seen: dict[int, int] = {}
    repeated: dict[int, dict[bytes, int]] = {}
    for number, names in enumerate(parts):
        for name in names:
            if name in seen:
                repeated.setdefault(number, {})[digest(name)] = seen[name]
            seen.setdefault(name, number)
    return repeated


@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=12), st.randoms())
def test_every_part_that_repeats_ids_is_found(parts, order):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(duplicates, "_BUFFERED_ENTRIES", 7)
        index = IdIndex(Path(folder), len(parts))
        numbers = list(range(len(parts)))
        order.shuffle(numbers)  # workers end in any order
        for number in numbers:
            index.add(number, digests(parts[number]))
        assert dict(index.duplicates()) == firsts(parts)


def peak_bytes(folder: Path, parts: int) -> int:
    """The most memory of a index of so many parts with 20,000 ids each."""
    folder.mkdir()
    tracemalloc.start()
    index = IdIndex(folder, parts)
    for part in range(parts):
        index.add(part, np.random.default_rng(part).bytes(16 * 20_000))
    assert list(index.duplicates()) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    assert peak_bytes(tmp_path / "ten", 150) < 1.3 * peak_bytes(tmp_path / "one", 15)


def work_on(folder: Path, lines: list[str], **options) -> tuple[Work, list[Part]]:
    """A job over one file a part."""
    (folder / "in").mkdir()
    for number, line in enumerate(lines):
        (folder / "in" / f"{number}.jsonl").write_text(line)
    settings = Settings(str(folder / "in"), str(folder / "out"), MODEL, id_column="id", **options)
    inputs, files, _ = find_inputs(settings.input)
    output = Output(LOCAL, settings.output)
    output.prepare()
    planned = plan_parts(inputs, files, settings)
    work = Work(
        settings=settings,
        recorded={"columns": {}},
        identity=identify(CATALOG[MODEL], settings, None),
        app="",
        config=ModelConfig(name=MODEL),
        tokens_per_s=None,
        replicas=1,
        workers=1,
        inputs=inputs,
        output=output,
        carried=planned.carried,
        wait_s=60.0,
        collector=None,
    )
    return work, planned.parts


def commit(work: Work, part: Part) -> bytes:
    """Does a part as a worker does it, with vectors that tell the rows apart."""
    rows = read_part(work.inputs, part, "text", work.carried)
    bad = {row: "empty" for row, text in enumerate(rows.texts) if not text}
    items = [Item(row, 0, 1) for row in range(len(rows)) if row not in bad]
    vectors = np.array([[len(str(rows.texts[item.row]))] for item in items], np.float32)
    documents = Documents(items, [], bad)
    table, rejects, counts = assemble(
        part.file.name, rows, documents, vectors.reshape(-1, 1), work.settings
    )
    work.output.commit(part.name, table, rejects, work.record(part.file, counts))
    return digests(work.output.ids(part.name))


def finish(work: Work, parts: list[Part], part_ids: list[bytes], folder: Path) -> Counts:
    folder.mkdir()
    index = IdIndex(folder, len(parts))
    for number, ids in enumerate(part_ids):
        index.add(number, ids)
    return drop_duplicates(work, parts, index)


LINES = [
    '{"id": "a", "text": "1"}\n{"id": "b", "text": ""}\n{"id": "a", "text": "22"}\n',
    '{"id": "b", "text": "333"}\n{"id": "a", "text": "4444"}\n{"id": "c", "text": "55555"}\n',
]


def written(work: Work) -> dict[str, list[float]]:
    rows = pq.read_table(work.output.root).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["embedding"] for row in rows}


def rejected(work: Work) -> list[tuple[str, str, str | None]]:
    rows = pq.read_table(work.output.rejects_folder).to_pylist()
    rows.sort(key=lambda row: (row["source"], row["position"]))
    return [(row["id"], row["reason"], row["text"]) for row in rows]


ONE_MORE = Counts(documents=-1, written=-1, rejected=1, reasons={"duplicate id": 1})
EXPECTED = [
    ("b", "empty", ""),
    ("a", "duplicate id, first in 0.jsonl", "22"),
    ("a", "duplicate id, first in 0.jsonl", "4444"),
]


def test_the_first_row_that_can_be_encoded_keeps_the_id(tmp_path):
    work, parts = work_on(tmp_path, LINES)
    part_ids = [commit(work, part) for part in parts]
    change = finish(work, parts, part_ids, tmp_path / "index")
    assert change == ONE_MORE
    assert written(work) == {"a": [1.0], "b": [3.0], "c": [5.0]}
    assert rejected(work) == EXPECTED
    done = [work.output.committed_counts(part.name, work.identity) for part in parts]
    assert sum(counts.rejected for counts in done) == 3
    assert sum(counts.documents + counts.rejected for counts in done) == 6


def test_killed_between_the_rejects_and_the_vectors(tmp_path):
    work, parts = work_on(tmp_path, LINES)
    part_ids = [commit(work, part) for part in parts]
    before = Path(work.output.root, parts[1].name).read_bytes()
    finish(work, parts, part_ids, tmp_path / "first")
    Path(work.output.root, parts[1].name).write_bytes(before)  # its rejects are there already
    change = finish(work, parts, part_ids, tmp_path / "second")
    assert change == ONE_MORE
    assert set(written(work)) == {"a", "b", "c"}
    assert rejected(work) == EXPECTED


def test_derived_ids_of_equal_texts_differ(tmp_path):
    (tmp_path / "a.txt").write_text("one\none\n")
    settings = Settings(str(tmp_path / "a.txt"), "out", MODEL)
    inputs, files, _ = find_inputs(settings.input)
    (part,) = plan_parts(inputs, files, settings).parts
    rows = read_part(inputs, part, "text", pa.schema([]))
    documents = Documents([Item(0, 0, 3), Item(1, 0, 3)])
    table, rejects, _ = assemble("a.txt", rows, documents, np.zeros((2, 1), np.float32), settings)
    assert len(set(table["id"].to_pylist())) == 2
    assert rejects.num_rows == 0


def test_an_id_that_is_not_utf8_beside_one_that_occurs_twice(tmp_path):
    work, parts = work_on(tmp_path, LINES)
    bad = pa.array([b"a", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"id": bad, "text": ["1", "22"]}), tmp_path / "in" / "2.parquet")
    _, (file,), _ = find_inputs(f"{tmp_path}/in/*.parquet")
    parts = [parts[0], Part(file, 0, 2, 2)]
    part_ids = [commit(work, part) for part in parts]
    assert finish(work, parts, part_ids, tmp_path / "index").rejected == 1
    reasons = [reason for _, reason, _ in rejected(work)]
    assert "not valid UTF-8 in the id column 'id'" in reasons
    assert reasons.count("duplicate id, first in 0.jsonl") == 2
    assert set(written(work)) == {"a"}


def test_a_file_that_has_changed_since_is_not_read_again_for_its_rejects(tmp_path):
    work, parts = work_on(tmp_path, LINES)
    part_ids = [commit(work, part) for part in parts]
    (tmp_path / "in" / "1.jsonl").write_text(LINES[0] + LINES[1])
    with pytest.raises(JobError, match=r"1.jsonl has changed"):
        finish(work, parts, part_ids, tmp_path / "index")
