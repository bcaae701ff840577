"""Reads and checks a Serve config file before `embedfleet serve` starts anything.

Ray Serve ignores keys that it does not know. Here they are errors; Ray's own schema says which are known.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.arguments import PORTS
from deployments.config.keys_file import read_tenants
from deployments.config.schema import AppArgs, Limits, routing_of
from deployments.validation import explain, unknown_key

LOOPBACK = "127.0.0.1"
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
_SCHEMAS = ("ServeDeploySchema", "HTTPOptionsSchema", "ServeApplicationSchema", "DeploymentSchema")
_PRINT_KEYS = """\
import json, sys
from ray.serve import schema
print(json.dumps({name: list(getattr(schema, name).model_fields) for name in sys.argv[1:]}))
"""
_DEFAULTS = Limits()


class ConfigError(Exception):
    """The service cannot start from this config; the message names the field and the fix."""


@dataclass(frozen=True)
class Ingress:
    """Where the service listens, the largest limits of its applications, and their models.

    ``host`` is None if the file does not set it. With ``tls`` the service speaks only https. ``models``
    are the names of the models that it serves, ``keys_files`` the files of tenants.
    """

    host: str | None
    port: int
    max_requests: int = _DEFAULTS.max_requests
    request_timeout_s: float = _DEFAULTS.request_timeout_s
    tls: bool = False
    models: tuple[str, ...] = ()
    keys_files: tuple[Path, ...] = ()


def read_address(file: Path) -> tuple[str | None, int, bool]:
    """Returns host, port and whether TLS is used, as `Ingress`, of a file that is not checked otherwise.

    Takes no time, since it does not import Ray. Raises ConfigError.
    """
    return _address(file, load(file))


def _address(file: Path, content: Mapping[str, Any]) -> tuple[str | None, int, bool]:
    http = content.get("http_options") or {}
    try:
        _check_listening(http)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    return http.get("host"), http.get("port", 8000), bool(http.get("ssl_certfile"))


def read_config(file: Path) -> Ingress:
    """Checks a Serve config file, with the files of tenants that exist here, and returns its ingress.

    Raises ConfigError with the field that is wrong.
    """
    content = load(file)
    host, port, tls = _address(file, content)
    try:
        # ours first: Ray's schemas take seconds to import. Where `args` is misspelt they know better
        for app in _our_applications(content):
            if "args" in app:
                _check(app)
        known = _known_keys()
        _check_keys(content, known)
        _check_applications(content, known)
        ours = [_check(app) for app in _our_applications(content)]
        keys_files = [file for args in ours for file in _keys_files(args)]
    except ValidationError as error:
        raise ConfigError(f"{file}, args: {explain(error, AppArgs)}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    limits = [args.limits for args in ours] or [_DEFAULTS]
    return Ingress(
        host,
        port,
        max(limit.max_requests for limit in limits),
        max(limit.request_timeout_s for limit in limits),
        tls,
        tuple(model.name for args in ours for model in args.models),
        tuple(keys_files),
    )


def require_keys_files(ingress: Ingress) -> None:
    """Raises ConfigError if a file of tenants is not on this machine."""
    for file in ingress.keys_files:
        if not file.exists():
            raise ConfigError(f"api.keys_file: there is no {file}")


def _why_not_yaml(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())


@contextmanager
def listening_at(file: Path, host: str, port: int) -> Iterator[Path]:
    """Yields a config file with ``host`` and ``port`` set; Serve would listen on every interface."""
    content = load(file)
    configured = content.get("http_options") or {}
    http = {**configured, "host": host, "port": port}
    if http == configured:
        yield file
        return
    with written(yaml.safe_dump({**content, "http_options": http})) as copy:
        yield copy


@contextmanager
def written(text: str) -> Iterator[Path]:
    """Yields a temporary file with this text."""
    with NamedTemporaryFile("w", prefix="embedfleet-", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        yield Path(file.name)


def load(file: Path) -> dict[str, Any]:
    """Returns the file's content. Raises ConfigError unless it is a YAML mapping."""
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {file}; `embedfleet serve --model NAME` needs none, and a minimal config is"
            f"\n\n{EXAMPLE}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {_why_not_yaml(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: `applications` is missing; it is not a Ray Serve config")
    return content


@cache
def _known_keys() -> dict[str, list[str]]:
    """Returns the keys that each of Ray's schemas knows.

    A process of its own imports Ray, which would stay in memory as long as the service runs.
    """
    command = [sys.executable, "-c", _PRINT_KEYS, *_SCHEMAS]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    keys: dict[str, list[str]] = json.loads(run.stdout)
    return keys


def _check_keys(content: Mapping[str, Any], known: Mapping[str, list[str]]) -> None:
    _require_known(content, known["ServeDeploySchema"])
    _require_known(content.get("http_options") or {}, known["HTTPOptionsSchema"], "http_options.")


def _check_listening(http: Any) -> None:
    _require(
        isinstance(http, dict), "http_options: must be fields with values, such as `port: 8000`"
    )
    host, port = http.get("host", LOOPBACK), http.get("port", 8000)
    _require(
        host is None or (isinstance(host, str) and bool(host)),
        f"http_options.host: must be a host name or an address such as {LOOPBACK}, not {host!r}",
    )
    valid = type(port) is int and port in PORTS
    bounds = f"from {PORTS[0]} to {PORTS[-1]}"
    _require(valid, f"http_options.port: must be a whole number {bounds}, not {port!r}")
    both = bool(http.get("ssl_keyfile")) == bool(http.get("ssl_certfile"))
    _require(both, "http_options: set both ssl_keyfile and ssl_certfile, or neither")


def _our_applications(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    apps = content.get("applications") or []
    return [app for app in apps if isinstance(app, dict) and app.get("import_path") == _OURS]


def _check_applications(content: Mapping[str, Any], known: Mapping[str, list[str]]) -> None:
    apps = content.get("applications") or []
    _require(bool(apps), "`applications` is missing; it is not a Ray Serve config")
    _require(_is_list_of_mappings(apps), "applications: must be a list of fields with values")
    for number, app in enumerate(apps):
        where = f"applications.{number}."
        _require_known(app, known["ServeApplicationSchema"], where)
        _require("import_path" in app, f"{where}import_path: is missing; ours is `{_OURS}`")
        for place, deployment in enumerate(_deployments(app)):
            _require_known(deployment, known["DeploymentSchema"], f"{where}deployments.{place}.")


def _deployments(app: Mapping[str, Any]) -> list[dict[str, Any]]:
    deployments = app.get("deployments") or []
    _require(
        _is_list_of_mappings(deployments),
        "deployments: must be a list of fields with values, such as `- name: router`",
    )
    return list(deployments)


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _check(app: dict[str, Any]) -> AppArgs:
    args = AppArgs.model_validate(app.get("args") or {})
    for deployment in _deployments(app):
        if deployment.get("name") == "router" and "user_config" in deployment:
            try:
                routing_of(deployment["user_config"], [model.name for model in args.models])
            except ValueError as error:
                raise ValueError(f"user_config: {error}") from error
    return args


def _keys_files(args: AppArgs) -> list[Path]:
    if args.api.keys_file is None:
        return []
    file = Path(args.api.keys_file)
    if file.exists():
        try:
            read_tenants(file, [model.name for model in args.models])
        except (OSError, ValueError) as error:
            raise ValueError(f"api.keys_file: {error}") from error
    return [file]


def _require_known(fields: Mapping[str, Any], known: Collection[str], where: str = "") -> None:
    for name in fields:
        _require(name in known, f"{where}{name}: {unknown_key(str(name), known)}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
