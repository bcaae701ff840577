"""The application that several modules of this folder use one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from testing.hashing import save_model
from testing.running import RunningService
from testing.shared_service import SharedService

STEADY = "steady"


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The config of a model that is slow enough for a job to be struck."""
    folder = tmp_path_factory.mktemp("models") / STEADY
    return {"name": STEADY, "path": str(save_model(folder, tokens_per_s=15_000))}


@pytest.fixture(scope="module")
def steady_service(shared_service: SharedService, steady: Mapping[str, Any]) -> RunningService:
    """One router and one replica of that model."""
    return shared_service.serve([steady], [STEADY], {"import_path": "testing.hashing:build"})
