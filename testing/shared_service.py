"""One running service for many test modules.

Starting Ray, Serve and HAProxy takes 15 s or more; replacing the application takes 5 s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import ray
import yaml
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from testing.processes import replicas
from testing.running import (
    CONFIG_FILE,
    RunningService,
    config,
    describe_in_advance,
    running_service,
    wait_until_ready,
)
from testing.waiting import until

_REPLACED_S = 60.0


class SharedService:
    """`embedfleet serve`, which the first module starts; the next ones replace its application."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._stack = ExitStack()
        self._environment = environment
        self._running: RunningService | None = None

    def serve(
        self,
        models: Sequence[Mapping[str, Any]],
        wait_for: Sequence[str],
        app: Mapping[str, Any] | None = None,
        **args: Any,
    ) -> RunningService:
        """Returns the service once it serves this application. Arguments are as in `running_service`."""
        if self._running is None:
            self._running = self._stack.enter_context(
                running_service(models, wait_for, "auto", self._environment, app, **args)
            )
        else:
            describe_in_advance(models)
            _replace_application(self._running, models, app, **args)
            wait_until_ready(self._running, wait_for)
        return self._running

    def close(self) -> None:
        """Stops the service, unless it has ended. The next module starts another."""
        leave()
        self._stack.close()
        self._running = None


def _replace_application(
    service: RunningService,
    models: Sequence[Mapping[str, Any]],
    app: Mapping[str, Any] | None,
    **args: Any,
) -> None:
    port = urlsplit(service.url).port
    assert port is not None
    wanted = config(models, port, app, **args)
    if wanted == _current(service):
        return
    old = set(replicas(service))
    _deploy(service, wanted)
    until(lambda: not old & set(replicas(service)), _REPLACED_S, "the old replicas have ended")


def redeploy(service: RunningService, edit: Callable[[dict[str, Any]], None]) -> None:
    """Deploys the service's config again after ``edit`` has changed its application, without waiting."""
    changed = _current(service)
    edit(changed["applications"][0])
    _deploy(service, changed)


def join(service: RunningService) -> None:
    """Connects this process to the service's Ray, unless it is connected already."""
    if not ray.is_initialized():
        ray.init(service.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    assert ray.get_runtime_context().gcs_address == service.ray_address


def leave() -> None:
    """Ends this process's connection to Ray."""
    ray.shutdown()


def _current(service: RunningService) -> dict[str, Any]:
    text = (service.log.parent / CONFIG_FILE).read_text()
    current: dict[str, Any] = yaml.safe_load(text)
    return current


def _deploy(service: RunningService, wanted: dict[str, Any]) -> None:
    join(service)
    (service.log.parent / CONFIG_FILE).write_text(yaml.safe_dump(wanted))
    client = _get_global_client()  # `serve deploy` asks for the same, but needs a process for it
    assert client is not None
    client.deploy_apps(ServeDeploySchema.model_validate(wanted), _blocking=False)
