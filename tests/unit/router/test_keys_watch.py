"""The file of tenants is read again when it changes; a broken one keeps the old keys."""

from __future__ import annotations

import hashlib
import logging
import os

import pytest

from deployments.router import keys_watch
from deployments.router.keys_watch import KeysWatch


def entry(name):
    return f"  - {{name: {name}, sha256: {hashlib.sha256(name.encode()).hexdigest()}}}\n"


class Used:
    def __init__(self, file):
        self.file, self.names, self.times = file, [], 0
        self.watch = KeysWatch(file, ["small"], self.use)

    def use(self, tenants):
        self.times += 1
        self.names = sorted(tenant.name for tenant in tenants.values())

    def write(self, *names):
        self.file.write_text("keys:\n" + "".join(map(entry, names)))

    def look(self):
        self.watch.look()
        return self.names


@pytest.fixture
def errors(monkeypatch, caplog):
    """What is logged as an error; Serve takes its own logger's records away from others."""
    logger = logging.Logger("watch")
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(keys_watch, "log", logger)
    return lambda: [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


@pytest.fixture
def used(tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text("keys:\n" + entry("a"))
    return Used(file)


def test_keys_come_and_go(used):
    assert used.names == ["a"]
    used.write("a", "b")
    assert used.look() == ["a", "b"]
    used.write("b")
    assert used.look() == ["b"]


def test_a_file_that_is_as_it_was_is_not_read_again(used):
    for _ in range(3):
        used.look()
    assert used.times == 1


def test_a_file_of_the_same_size_and_age_in_its_place_is_read(used):
    new = used.file.with_name("new")
    new.write_text(used.file.read_text().replace("name: a", "name: z"))
    old = used.file.stat()
    os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
    new.replace(used.file)
    assert used.look() == ["z"]


def test_a_broken_file_keeps_the_keys_and_is_reported_once(used, errors):
    used.file.write_text("keys: [{name: b}]")
    for _ in range(3):
        assert used.look() == ["a"]
    used.file.unlink()
    for _ in range(3):
        assert used.look() == ["a"]
    assert len(errors()) == 2
    assert "keys.0.sha256: is missing" in errors()[0]
    used.write("c")
    assert used.look() == ["c"]


def test_a_file_that_was_broken_twice_is_reported_twice(used, errors):
    for names in ("b", "c"):
        used.file.write_text("keys: [{name: b}]")
        used.look()
        used.write(names)
        used.look()
    assert len(errors()) == 2


def test_a_service_does_not_start_from_a_broken_file(tmp_path):
    (tmp_path / "keys.yaml").write_text("keys: []")
    with pytest.raises(ValueError, match="keys: must not be empty"):
        Used(tmp_path / "keys.yaml")
    with pytest.raises(FileNotFoundError):
        Used(tmp_path / "absent.yaml")
