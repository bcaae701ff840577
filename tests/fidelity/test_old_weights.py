"""Weights in PyTorch's older format give the same vectors, and only weights are read from them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deployments.core.errors import UnsupportedModel
from deployments.core.models import conversion
from deployments.core.models.loading import find_model
from testing.models.files import write_pooling
from testing.models.tiny import save_bert
from tests.fidelity.pipeline import encode

TEXTS = ["a", "x y z " * 20]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def original(tmp_path):
    return save_bert(tmp_path / "original")


@pytest.fixture
def old(tmp_path, original):
    """The same model in the older format, with a Dense-like subfolder."""
    folder = tmp_path / "old"
    shutil.copytree(original, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def vectors(folder: Path):
    files = find_model("mine", str(folder))
    return encode(files.spec, files.folder, TEXTS)


def test_the_vectors_are_those_of_safetensors(original, old):
    assert np.array_equal(vectors(old), vectors(original))


def test_shards_keep_their_index(original, old):
    weights = torch.load(old / "pytorch_model.bin", weights_only=True)
    (old / "pytorch_model.bin").unlink()
    names = sorted(weights)
    index = {}
    for part, some in enumerate((names[::2], names[1::2]), 1):
        shard = f"pytorch_model-0000{part}-of-00002.bin"
        torch.save({name: weights[name] for name in some}, old / shard)
        index |= dict.fromkeys(some, shard)
    (old / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    assert np.array_equal(vectors(old), vectors(original))


def test_a_file_of_before_archives_is_read_too(original, old):
    weights = torch.load(old / "pytorch_model.bin", weights_only=True)
    torch.save(weights, old / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert np.array_equal(vectors(old), vectors(original))


def test_tied_weights_are_both_kept(tmp_path):
    shared = torch.arange(6.0)
    torch.save({"a": shared, "b": shared, "c": shared[1:3]}, tmp_path / "pytorch_model.bin")
    converted = conversion.with_safetensors(tmp_path, "mine")
    actual = load_file(converted / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in actual.items()} == {
        "a": shared.tolist(),
        "b": shared.tolist(),
        "c": [1.0, 2.0],
    }


def test_it_is_converted_once(old, cache, monkeypatch):
    first = find_model("mine", str(old)).folder
    assert first.parent == cache
    monkeypatch.setattr(conversion, "_convert", None)  # would fail if it were called
    assert find_model("mine", str(old)).folder == first
    assert [path.name for path in cache.iterdir()] == [first.name]


def test_other_files_are_not_copied(old, cache):
    folder = find_model("mine", str(old)).folder
    assert (folder / "tokenizer.json").resolve() == old / "tokenizer.json"
    assert (folder / "1_Pooling" / "config.json").is_symlink()
    assert not (folder / "pytorch_model.bin").exists()


def test_the_same_weights_beside_other_files_are_another_model(old, tmp_path):
    find_model("mine", str(old))
    other = tmp_path / "other"
    shutil.copytree(old, other)
    write_pooling(other / "1_Pooling", "cls", 32)
    folder = find_model("mine", str(other)).folder
    assert (folder / "1_Pooling" / "config.json").resolve() == other / "1_Pooling" / "config.json"
    shutil.rmtree(old)
    assert (folder / "tokenizer.json").is_file()


def test_a_file_that_comes_later_is_there_too(old):
    find_model("mine", str(old))
    (old / "later.json").write_text("{}")
    assert (find_model("mine", str(old)).folder / "later.json").is_file()


def test_routers_read_the_same_space_without_the_weights(old):
    with_weights = find_model("mine", str(old)).spec
    assert find_model("mine", str(old), weights=False).spec == with_weights


def test_other_weights_are_another_space(original, old):
    before = find_model("mine", str(old), weights=False).spec.revision
    torch.save({"x": torch.ones(1)}, old / "pytorch_model.bin")
    assert find_model("mine", str(old), weights=False).spec.revision != before


class Runs:
    def __reduce__(self):
        return os.system, ("touch /tmp/this-must-not-run",)


@pytest.mark.parametrize("content", [{"x": Runs()}, [1, 2], None])
def test_a_pickle_that_is_more_than_weights_is_refused(old, content, cache):
    torch.save(content, old / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"pytorch_model\.bin"):
        find_model("mine", str(old))
    assert not any(cache.iterdir())
    assert not Path("/tmp/this-must-not-run").exists()


def test_no_weights_at_all(old):
    (old / "pytorch_model.bin").unlink()
    with pytest.raises(UnsupportedModel, match="safe_serialization=True"):
        find_model("mine", str(old))
