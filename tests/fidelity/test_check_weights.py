"""``embedfleet check --weights`` compares a model with sentence-transformers."""

from __future__ import annotations

import pytest

from cluster import cli
from deployments.core.checking import verdict
from testing.models.tiny import save_bert


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "read_cached", lambda *_: None)
    monkeypatch.setattr(verdict, "write_cached", lambda *_: None)
    return save_bert(tmp_path / "mine")


def test_the_same_vectors(folder, capsys):
    assert cli.main(["check", str(folder), "--weights"]) == 0
    out = capsys.readouterr().out
    assert "supported" in out
    assert "those of sentence-transformers" in out


def test_other_vectors_are_refused_with_the_difference(folder, capsys, monkeypatch):
    from deployments.core.checking import comparison

    monkeypatch.setattr(comparison, "vector_difference", lambda *_: "the cosine is 0.3")
    assert cli.main(["check", str(folder), "--weights"]) == 1
    assert "the cosine is 0.3" in capsys.readouterr().err
