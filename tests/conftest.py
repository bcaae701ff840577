"""Fixtures that several test folders share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from testing.shared_service import SharedService
from tests.support.killing import save_corpus
from tests.support.small_disk import mounted

# the same examples in every run, HYPOTHESIS_PROFILE=explore looks for new ones; no deadline:
# a loaded machine is slow, which is no failure
settings.register_profile("same", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


# nothing is reported to Ray's authors; each cluster then needs a process less
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# what one run finds out about a model must not decide the next one
os.environ["EMBEDFLEET_CACHE"] = tempfile.mkdtemp(prefix="embedfleet-cache-")
atexit.register(shutil.rmtree, os.environ["EMBEDFLEET_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def shared_service() -> Iterator[SharedService]:
    """One Ray with Serve and HAProxy, in which each module of tests deploys its own application."""
    # a replica that takes this long to start gets a reason in `/v1/models`
    service = SharedService({"SERVE_SLOW_STARTUP_WARNING_S": "2"})
    yield service
    service.close()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A Parquet file of texts for jobs that are interrupted, and the texts' ids."""
    path = tmp_path_factory.mktemp("corpus") / "a.parquet"
    return path, save_corpus(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MB."""
    with mounted(tmp_path / "disk", "size=1536k") as folder:
        yield folder
