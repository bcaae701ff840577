"""Opens the store of batches that a config means."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import ray

from deployments.batches.store import Store, open_store
from deployments.config.schema import BatchesConfig
from deployments.core.errors import StoreFailed
from deployments.ray_private import session_root

log = logging.getLogger("ray.serve")
_FOLDER = "embedfleet-batches"


def configured_store(config: BatchesConfig) -> Store:
    """Returns the store of a config, by default a folder of this user beside Ray's own.

    The log says where it is. Raises StoreFailed if it cannot be used, or if there is no ``store`` on
    several machines.
    """
    store = _default_store() if config.store is None else open_store(config.store)
    log.info("batches are kept in %s", store)
    return store


def _default_store() -> Store:
    if sum(node["Alive"] for node in ray.nodes()) > 1:
        raise StoreFailed(
            "`batches.store` is missing in the config: the cluster has several nodes, so name a folder "
            "that all of them see, or a bucket such as s3://bucket/batches"
        )
    folder = Path(session_root()).parent / f"{_FOLDER}-{os.getuid()}"
    store = open_store(str(folder))
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise StoreFailed(f"{folder} is not a folder of this user alone; set `batches.store`")
    return store
