"""Descriptions in Ray's key-value store: made by one process, read by all others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import ray
from ray.experimental import internal_kv

from deployments.config.schema import ModelConfig
from deployments.core.models.catalog import CATALOG
from deployments.core.models.description import Description
from deployments.core.models.space import space_id
from deployments.wire import descriptions
from deployments.wire.descriptions import publish, published

CONFIG = ModelConfig(name="folder", path="/models/folder")
OLD = Description(replace(CATALOG["e5-small"], revision="a" * 40), '{"of": "old files"}')
NEW = Description(replace(CATALOG["e5-small"], revision="b" * 40), '{"of": "new files"}')


@pytest.fixture(autouse=True)
def _in_a_cluster(monkeypatch, kept):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)


def test_what_one_process_publishes_all_others_read():
    publish(CONFIG, OLD, is_loaded=False)
    assert published(CONFIG) == OLD
    assert published(CONFIG, space_id(OLD.spec)) == OLD


@pytest.mark.parametrize(
    "other",
    [
        {"path": "/models/other"},
        {"revision": "c" * 40},
        {"max_tokens": 17},
        {"prompts": {"query": "find: {text}"}},
        {"name": "other"},
    ],
)
def test_another_config_is_another_model(other):
    publish(CONFIG, OLD, is_loaded=True)
    assert published(ModelConfig(**{"name": "folder", "path": "/models/folder"} | other)) is None


def test_what_does_not_change_vectors_is_the_same_model():
    publish(CONFIG, OLD, is_loaded=True)
    assert published(CONFIG.model_copy(update={"num_cpus": 3, "dtype": "float32"})) == OLD


def test_what_a_replica_has_loaded_is_what_the_config_means():
    """A router may have read files before they were replaced, and be late to publish them."""
    publish(CONFIG, NEW, is_loaded=True)
    publish(CONFIG, OLD, is_loaded=False)
    assert published(CONFIG) == NEW
    publish(CONFIG, OLD, is_loaded=True)
    assert published(CONFIG) == OLD


def test_each_version_is_there_by_its_space():
    publish(CONFIG, OLD, is_loaded=True)
    publish(CONFIG, NEW, is_loaded=True)
    assert published(CONFIG, space_id(OLD.spec)) == OLD
    assert published(CONFIG, "0" * 16) is None


def test_of_many_versions_the_last_ones_are_kept(kept):
    specs = [replace(OLD.spec, revision=f"{n:040}") for n in range(7)]
    for spec in specs:
        publish(CONFIG, replace(OLD, spec=spec), is_loaded=True)
    known = [spec for spec in specs if published(CONFIG, space_id(spec))]
    assert known == specs[-descriptions._KEPT :]
    assert sum(key.startswith("description/") for key in kept) == descriptions._KEPT


def test_a_store_that_is_away_costs_time_only(monkeypatch):
    def away(*_, **__):
        raise ConnectionError("the head node is away")

    for name in ("get", "put", "list"):
        monkeypatch.setattr(internal_kv, f"_internal_kv_{name}", away)
    publish(CONFIG, OLD, is_loaded=True)
    assert published(CONFIG) is None


def test_without_ray_nothing_is_kept(monkeypatch, kept):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    publish(CONFIG, OLD, is_loaded=True)
    assert (published(CONFIG), kept) == (None, {})
