"""What is kept of a model's files is found again by the same files, libraries and code only."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.core import engine
from deployments.core.models import cache
from deployments.core.models.cache import (
    cache_key,
    hash_of_code,
    one_at_a_time,
    read_cached,
    write_cached,
)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(tmp_path))
    return tmp_path


def test_what_is_written_is_read_by_its_key():
    write_cached("verdicts", cache_key(files="a"), {"network": "fast"})
    assert read_cached("verdicts", cache_key(files="a")) == {"network": "fast"}
    assert read_cached("verdicts", cache_key(files="b")) is None
    assert read_cached("descriptions", cache_key(files="a")) is None


def test_other_libraries_are_another_key(monkeypatch):
    before = cache_key(files="a")
    monkeypatch.setattr(cache, "_versions", lambda: {"torch": "99"})
    assert cache_key(files="a") != before


def test_other_code_is_another_key(monkeypatch):
    before = cache_key(files="a")
    monkeypatch.setattr(cache, "_code", lambda: "other")
    assert cache_key(files="a") != before


def code(folder: Path, **files: str) -> str:
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return hash_of_code(folder)


def test_any_change_of_the_code_changes_its_hash(tmp_path):
    hashes = [
        code(tmp_path / "1", a="x = 1", inner__b="y"),
        code(tmp_path / "2", a="x = 2", inner__b="y"),
        code(tmp_path / "3", c="x = 1", inner__b="y"),
        code(tmp_path / "4", a="x = 1", inner__b=""),
    ]
    assert len({*hashes}) == len(hashes)
    assert code(tmp_path / "5", a="x = 1", inner__b="y") == hashes[0]


def test_the_code_is_that_of_the_core(monkeypatch):
    hashed = []
    monkeypatch.setattr(cache, "hash_of_code", lambda folder: hashed.append(folder) or "")
    cache._code.__wrapped__()
    assert hashed == [Path(engine.__file__).parents[1]]


def test_a_damaged_file_counts_as_none(folder):
    key = cache_key(files="a")
    write_cached("verdicts", key, {"network": "fast"})
    (folder / "verdicts" / f"{key}.json").write_text('{"network": ')
    assert read_cached("verdicts", key) is None


def test_a_folder_that_cannot_be_written_costs_time_only(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(folder / "file"))
    with one_at_a_time("verdicts", "key"):
        write_cached("verdicts", "key", {"network": "fast"})
    assert read_cached("verdicts", "key") is None
