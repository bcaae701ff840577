"""Descriptions of models in the cluster: made by one process, read by all others.

They are kept in Ray's key-value store, so a model without a replica can still be tokenized for, on nodes
that have none of its files. Without Ray, nothing is kept.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import time
import zlib
from contextlib import suppress

import ray

from deployments.config.schema import ModelConfig
from deployments.core.models.description import Description
from deployments.core.models.space import space_id
from deployments.ray_private import KeyValueStore

log = logging.getLogger("ray.serve")
_store = KeyValueStore("embedfleet")
_KEPT = 4  # descriptions of one model: the current one, and those of the last updates


def publish(config: ModelConfig, description: Description, *, is_loaded: bool) -> None:
    """Makes a description known to all processes. The cluster being away costs others time only.

    ``is_loaded`` says that a replica has loaded the model's weights. What it publishes is what the config
    means from then on; what other processes have read from files only counts until then.
    """
    if not ray.is_initialized():
        return
    folder = _folder(config.name)
    space = space_id(description.spec)
    try:
        if not _store.keys(f"{folder}{space}@"):
            content = zlib.compress(pickle.dumps(description), 1)
            _store.put(f"{folder}{space}@{time.time_ns():020}", content)
        _store.put(f"config/{config.name}/{_digest(config)}", space, overwrite=is_loaded)
        _forget_oldest(folder)
    except Exception as error:
        log.warning("the description of %s cannot be published: %r", config.name, error)


def published(config: ModelConfig, space: str | None = None) -> Description | None:
    """Returns the description of the model that a config names, if some process has published it.

    The files of a config may have changed since. With ``space``, only the description of that embedding
    space will do.
    """
    if not ray.is_initialized():
        return None
    with suppress(Exception):  # the cluster's store is away, so the files are read here
        if space is None:
            space = (_store.get(f"config/{config.name}/{_digest(config)}") or b"").decode()
        return _of_space(config.name, space) if space else None
    return None


def _of_space(name: str, space: str) -> Description | None:
    for key in _store.keys(f"{_folder(name)}{space}@"):
        if content := _store.get(key):
            description: Description = pickle.loads(zlib.decompress(content))
            return description
    return None


def _folder(name: str) -> str:
    return f"description/{name}/"


def _digest(config: ModelConfig) -> str:
    """Returns a hash of what a config says of the model's files and vectors."""
    content = repr((config.path, config.revision, config.overrides))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _forget_oldest(folder: str) -> None:
    by_age = sorted(_store.keys(folder), key=lambda key: key.rpartition("@")[2])
    for key in by_age[:-_KEPT]:
        _store.delete(key)
