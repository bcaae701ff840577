"""The corpus of the jobs that are interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.killing import save_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A Parquet file of texts, and their ids."""
    path = tmp_path_factory.mktemp("corpus") / "a.parquet"
    return path, save_corpus(path)
