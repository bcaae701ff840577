"""What a corpus job is told of a model: whose vectors it makes, without reading the weights again."""

from __future__ import annotations

from deployments.config.schema import ModelConfig
from deployments.core.models import loading
from deployments.core.models.loading import find_model
from deployments.wire.status import ModelState, ModelStatus, ServedModel

READY = ModelStatus(ModelState.READY, 1)


def test_a_folders_revision_is_told_to_workers_and_not_hashed_again(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    read = find_model("e5-small", str(tmp_path)).spec
    monkeypatch.delattr(loading, "content_hash")
    config = ServedModel(ModelConfig(name="e5-small", path=str(tmp_path)), read, None, READY).pinned
    assert find_model("e5-small", config.path, config.revision, weights=False).spec == read


def test_a_model_that_was_not_read_is_not_pinned():
    config = ModelConfig(name="own", path="/models/own")
    assert ServedModel(config, None, None, READY).pinned == config
