"""A Serve config file as `embedfleet serve` reads it, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.arguments import PORTS
from deployments.config.schema import AppArgs, Limits, routing_of
from deployments.validation import explain, unknown_key

LOOPBACK = "127.0.0.1"
DEFAULT_REQUESTS = Limits().max_requests
EXAMPLE = """\
applications:
  - name: embedfleet
    import_path: deployments.app:build
    args:
      models:
        - name: all-MiniLM-L6-v2
          threads: auto  # all cores
"""
_OURS = "deployments.app:build"
# of Ray 2.60's schema, which ignores what it does not know
_TOP = frozenset(
    "proxy_location http_options grpc_options controller_options logging_config tracing_config "
    "applications target_capacity".split()
)
_HTTP = frozenset(
    "host port root_path request_timeout_s keep_alive_timeout_s ssl_keyfile ssl_certfile "
    "ssl_keyfile_password ssl_ca_certs".split()
)
_APPLICATION = frozenset(
    "name route_prefix import_path runtime_env host port deployments autoscaling_policy args "
    "logging_config external_scaler_enabled".split()
)
_DEPLOYMENT = frozenset(
    "name num_replicas max_ongoing_requests max_queued_requests backpressure_config user_config "
    "autoscaling_config graceful_shutdown_wait_loop_s graceful_shutdown_timeout_s "
    "health_check_period_s health_check_timeout_s ray_actor_options placement_group_bundles "
    "placement_group_strategy placement_group_bundle_label_selector max_replicas_per_node "
    "logging_config request_router_config gang_scheduling_config deployment_actors "
    "rolling_update_percentage max_surge_percent".split()
)


class ConfigError(Exception):
    """The config file cannot be used; the message names the field."""


@dataclass(frozen=True)
class Ingress:
    """Where the service of a config file listens; what a router lets in, the most of its apps.

    ``host`` is None where the file does not say. With ``tls`` it answers to https alone.
    """

    host: str | None
    port: int
    max_requests: int
    tls: bool = False


def read_config(file: Path) -> Ingress:
    """Returns what a Serve config file says of the ingress, after a check of the app's own arguments.

    Raises ConfigError that names the field.
    """
    content = load(file)
    http = content.get("http_options") or {}
    try:
        _check_keys(content, http)
        apps = [app for app in _applications(content) if app.get("import_path") == _OURS]
        most = max((_check(app).limits.max_requests for app in apps), default=DEFAULT_REQUESTS)
    except ValidationError as error:
        raise ConfigError(f"{file}, args: {explain(error, AppArgs)}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    return Ingress(http.get("host"), http.get("port", 8000), most, bool(http.get("ssl_certfile")))


@contextmanager
def listening_at(file: Path, host: str, port: int) -> Iterator[Path]:
    """Yields a config that says where to listen: Serve's own default is every interface."""
    content = load(file)
    said = content.get("http_options") or {}
    http = {**said, "host": host, "port": port}
    if http == said:
        yield file
        return
    with written(yaml.safe_dump({**content, "http_options": http})) as copy:
        yield copy


@contextmanager
def written(text: str) -> Iterator[Path]:
    """Yields a config file of this text."""
    with NamedTemporaryFile("w", prefix="embedfleet-", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        yield Path(file.name)


def load(file: Path) -> dict[str, Any]:
    """Returns the file's content. Raises ConfigError where it is no mapping."""
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {file}; the least that one holds is\n\n{EXAMPLE}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: `applications` is missing; it is not a Ray Serve config")
    return content


def _check_keys(content: Mapping[str, Any], http: Any) -> None:
    _require_known(content, _TOP)
    _require(
        isinstance(http, dict), "http_options: must be fields with values, such as `port: 8000`"
    )
    _require_known(http, _HTTP, "http_options.")
    host, port = http.get("host", LOOPBACK), http.get("port", 8000)
    _require(
        host is None or (isinstance(host, str) and bool(host)),
        f"http_options.host: {host!r} is no host; it must be text, such as {LOOPBACK}",
    )
    valid = type(port) is int and port in PORTS
    bounds = f"from {PORTS[0]} to {PORTS[-1]}"
    _require(valid, f"http_options.port: {port!r} is no port; it must be {bounds}")
    both = bool(http.get("ssl_keyfile")) == bool(http.get("ssl_certfile"))
    _require(both, "http_options: ssl_keyfile and ssl_certfile go together")


def _applications(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = content.get("applications")
    _require(bool(found), "`applications` is missing; it is not a Ray Serve config")
    are_fields = isinstance(found, list) and all(isinstance(app, dict) for app in found)
    _require(are_fields, "applications: must be a list of fields with values")
    apps = list(found or ())
    for number, app in enumerate(apps):
        where = f"applications.{number}."
        _require_known(app, _APPLICATION, where)
        _require("import_path" in app, f"{where}import_path: is missing; ours is `{_OURS}`")
        for place, deployment in enumerate(_deployments(app)):
            _require_known(deployment, _DEPLOYMENT, f"{where}deployments.{place}.")
    return apps


def _deployments(app: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = app.get("deployments") or []
    are_fields = isinstance(found, list) and all(isinstance(d, dict) for d in found)
    _require(
        are_fields, "deployments: must be a list of fields with values, such as `- name: router`"
    )
    return list(found)


def _check(app: dict[str, Any]) -> AppArgs:
    args = AppArgs.model_validate(app.get("args") or {})
    for deployment in _deployments(app):
        if deployment.get("name") == "router" and "user_config" in deployment:
            try:
                routing_of(deployment["user_config"], [model.name for model in args.models])
            except ValueError as error:
                raise ValueError(f"user_config: {error}") from error
    return args


def _require_known(fields: Mapping[str, Any], known: frozenset[str], where: str = "") -> None:
    for name in fields:
        _require(name in known, f"{where}{name}: {unknown_key(str(name), known)}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
