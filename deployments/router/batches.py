"""Opens the store of batches that a config means."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import quote

import ray
from ray import serve
from ray.exceptions import RayError

from deployments.batches.store import Store, open_store
from deployments.config.schema import BatchesConfig
from deployments.core.errors import StoreFailed
from deployments.ray_private import http_port, session_root

log = logging.getLogger("ray.serve")
_FOLDER = "embedfleet-batches"
_CONTROLLER_S = 10.0


def configured_store(config: BatchesConfig) -> Store:
    """Returns the store of a config, by default a folder of this service alone beside Ray's own.

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
    app = serve.get_replica_context().app_name
    folder = default_folder(Path(session_root()).parent, _http_port(), app)
    store = open_store(str(folder))
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise StoreFailed(f"{folder} is not a folder of this user alone; set `batches.store`")
    return store


def default_folder(beside: Path, port: int, app: str) -> Path:
    """Returns the folder of one application of the service at an HTTP port.

    A service that starts again with its config finds it. Other services of this user have other ports:
    in a shared folder each would run the batches of all, with models that it may not have.
    """
    return beside / f"{_FOLDER}-{os.getuid()}-{port}-{quote(app, safe='')}"


def _http_port() -> int:
    try:
        return http_port(_CONTROLLER_S)
    except (RayError, ValueError) as error:
        raise StoreFailed(
            f"Serve does not say at which port this service listens ({error!r}), after which its folder "
            "of batches is named; retry later, or set `batches.store`"
        ) from error
