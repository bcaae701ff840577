"""Parts in part_runs: what has to be read from a start is read from there a few times, not for each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.formats.records import part_size
from cluster.corpus.formats.sources import LineSource, RowSource, source_of
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import Part, part_runs, plan_parts
from cluster.corpus.read.rows import read_part
from cluster.corpus.settings import Settings

LOCAL = pafs.LocalFileSystem()
TEXTS = [f"text number {n:04d}" for n in range(2_000)]
NOTHING = pa.schema([])


def planned(location: Path, **options) -> list[Part]:
    filesystem, files, _ = find_inputs(str(location))
    settings = Settings(str(location), "out", "m", part_mb=0.001, **options)
    return plan_parts(filesystem, files, settings).parts


@pytest.fixture
def packed(tmp_path) -> Path:
    data = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    return tmp_path / "a.jsonl.gz"


@pytest.fixture
def grouped(tmp_path) -> Path:
    """Two row groups, of many parts each."""
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet", row_group_size=1_010)
    return tmp_path / "a.parquet"


@pytest.fixture
def unpacked(monkeypatch) -> list[int]:
    """How many bytes each reading of a compressed file has given."""
    sizes = []
    take = LineSource._take

    def counted(source, size):
        data = take(source, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(LineSource, "_take", counted)
    return sizes


def read(parts: list[Part]) -> list[object]:
    source = source_of(LOCAL, parts[0].file)
    return [t for part in parts for t in read_part(LOCAL, part, "text", NOTHING, source).texts]


def test_a_compressed_file_is_not_unpacked_anew_for_each_part(packed, unpacked):
    parts = planned(packed)
    assert len(parts) > 50
    assert read(parts) == TEXTS
    assert sum(unpacked) == parts[-1].stop


def test_counting_rows_for_a_limit_unpacks_a_file_once(packed, unpacked):
    parts = planned(packed, limit=1_990)
    assert sum(unpacked) == parts[-1].stop
    assert read(parts) == TEXTS[:1_990]


def test_a_row_group_is_not_decoded_anew_for_each_part(grouped, monkeypatch):
    opened = []
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda *args, _own=pq.ParquetFile.iter_batches, **kwargs: (
            opened.append(kwargs["row_groups"]) or _own(*args, **kwargs)
        ),
    )
    assert read(planned(grouped)) == TEXTS
    assert opened == [[0], [1]]


def test_no_more_rows_are_decoded_at_once_than_a_part_has(grouped, monkeypatch):
    decoded = []
    own = pq.ParquetFile.iter_batches

    def counted(*args, **kwargs):
        for batch in own(*args, **kwargs):
            decoded.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    parts = planned(grouped)
    assert read(parts) == TEXTS
    assert max(decoded) == parts[0].stop < 100


@pytest.mark.parametrize("done", [slice(0, 3), slice(4, 5), slice(10, 60)])
def test_parts_that_are_done_are_skipped(packed, grouped, done):
    for path in (packed, grouped):
        parts = planned(path)
        expected = [read([part]) for part in parts]
        del parts[done], expected[done]
        assert read(parts) == [text for part in expected for text in part]


def test_a_source_goes_back_where_it_is_asked_to(packed, grouped):
    for path in (packed, grouped):
        parts = planned(path)[:5]
        assert read(parts[::-1]) == [text for part in parts[::-1] for text in read([part])]


@pytest.mark.parametrize("wanted", [1, 2, 5, 1_000])
def test_runs_hold_each_part_once_in_order(packed, grouped, tmp_path, wanted):
    del packed, grouped
    (tmp_path / "b.txt").write_text("\n".join(TEXTS))
    parts = [
        part for name in ("a.jsonl.gz", "a.parquet", "b.txt") for part in planned(tmp_path / name)
    ]
    runs = part_runs(parts, wanted)
    assert [part for run in runs for part in run] == list(enumerate(parts))
    assert all(len({(p.file.name, p.read_from) for _, p in run}) == 1 for run in runs)


@pytest.mark.parametrize(("wanted", "made"), [(1, 1), (4, 4), (1_000, 8)])
def test_a_file_alone_keeps_several_workers_busy(packed, wanted, made):
    runs = part_runs(planned(packed), wanted)
    assert len(runs) == made
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


def test_lines_that_are_not_compressed_and_small_row_groups_are_for_any_worker(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet", row_group_size=10)
    for name in ("a.txt", "a.parquet"):
        parts = planned(tmp_path / name)
        # the first, smaller parts may share a row group
        assert len(part_runs(parts, 1)) >= len(parts) - 2


def test_where_parts_are_cut_has_not_changed(packed, grouped):
    """The output's files are named by it: a job that was begun before goes on."""
    starts = [part.start for part in planned(packed)]
    assert starts == [0, 145, 522, *range(1_044, 2_000 * 29, 1_015)]  # lines of 29 bytes
    starts = [part.start for part in planned(grouped)]
    assert starts == [0, 5, 22, *range(45, 2_000, 46)]  # across row groups


def test_the_first_parts_of_a_file_are_smaller():
    assert [part_size(2_000, n) for n in range(5)] == [250, 750, 1_000, 2_000, 2_000]
    assert part_size(1, 0) == 1


def test_sources_are_of_their_formats(packed, grouped):
    assert isinstance(source_of(LOCAL, planned(packed)[0].file), LineSource)
    assert isinstance(source_of(LOCAL, planned(grouped)[0].file), RowSource)
