"""The file that ``api.keys_file`` names: whose key is which, and what each may do.

It holds the SHA-256 of keys, never a key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from deployments.core.lane import Lane
from deployments.core.tenants.tenant import ANYONE, Tenant
from deployments.validation import explain

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HOW = 'must be the key\'s SHA-256 as 64 hex digits: `printf %s "$KEY" | sha256sum`'


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenLimits(_Strict):
    """Tokens per minute, by lane; a lane that is left out has no limit."""

    online: PositiveInt | None = None
    offline: PositiveInt | None = None

    @property
    def by_lane(self) -> dict[Lane, int]:
        """The limits that there are."""
        limits = {Lane.ONLINE: self.online, Lane.OFFLINE: self.offline}
        return {lane: limit for lane, limit in limits.items() if limit is not None}


class KeyEntry(_Strict):
    """One tenant. It may have several keys, such as an old and a new one while callers change."""

    name: str = Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    sha256: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(1.0, ge=0.01, le=100)
    models: tuple[str, ...] | None = Field(None, min_length=1)
    highest_priority: Lane = Lane.ONLINE
    tokens_per_minute: TokenLimits = TokenLimits()
    concurrent_requests: PositiveInt | None = None

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value == ANYONE.name:
            raise ValueError(f"{value!r} means keys without a name; take another")
        return value

    @field_validator("sha256", mode="before")
    @classmethod
    def _hashes(cls, value: Any) -> Any:
        hashes = [value] if isinstance(value, str) else value
        if not isinstance(hashes, list) or not hashes:
            raise ValueError(_HOW)
        # the message must not repeat the value: somebody may have put the key itself here
        if not all(isinstance(h, str) and _SHA256.fullmatch(h.lower()) for h in hashes):
            raise ValueError(_HOW)
        return [h.lower() for h in hashes]

    @property
    def tenant(self) -> Tenant:
        """The same, as the core takes it."""
        return Tenant(
            self.name,
            None if self.models is None else frozenset(self.models),
            self.highest_priority,
            self.tokens_per_minute.by_lane,
            self.concurrent_requests,
            self.weight,
        )


class KeysFile(_Strict):
    """The whole file."""

    keys: tuple[KeyEntry, ...]

    # not `min_length`, which counts entries with an error as absent
    @field_validator("keys")
    @classmethod
    def _at_least_one(cls, value: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
        if not value:
            raise ValueError("must not be empty; leave `api.keys_file` out to use no file")
        return value

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names: dict[str, int] = {}
        owners: dict[str, str] = {}
        for place, entry in enumerate(self.keys):
            if (first := names.setdefault(entry.name, place)) != place:
                raise ValueError(
                    f"keys.{place}.name: {entry.name!r} is the name of keys.{first} too; list all "
                    "keys of a tenant in one `sha256`"
                )
            for digest in entry.sha256:
                if digest in owners:
                    raise ValueError(
                        f"keys.{place}.sha256: holds a key that {owners[digest]!r} has too"
                    )
                owners[digest] = entry.name
        return self


def read_tenants(file: Path, models: Collection[str]) -> Mapping[bytes, Tenant]:
    """Returns the tenants of a file by the SHA-256 of their keys.

    ``models`` are the names of the configured models. Raises OSError if the file cannot be read, and
    ValueError that names the file, and the line or field that is wrong.
    """
    try:
        entries = KeysFile.model_validate(_content(file)).keys
        _check_models(entries, models)
    except ValidationError as error:
        raise ValueError(f"{file}: {explain(error, KeysFile)}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: {error}") from None
    return {bytes.fromhex(h): tenant for tenant, hashes in _pairs(entries) for h in hashes}


def _pairs(entries: Collection[KeyEntry]) -> Iterator[tuple[Tenant, tuple[str, ...]]]:
    return ((entry.tenant, entry.sha256) for entry in entries)


def _content(file: Path) -> Any:
    text = file.read_bytes().decode("utf-8-sig")  # UnicodeDecodeError is a ValueError
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:  # whose text would quote the line
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"line {line}: is not YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise ValueError("holds characters that YAML does not allow") from None


def _check_models(entries: Collection[KeyEntry], models: Collection[str]) -> None:
    for place, entry in enumerate(entries):
        for model in entry.models or ():
            if model not in models:
                raise ValueError(
                    f"keys.{place}.models: {model!r} is not among the models "
                    f"{', '.join(sorted(models))}"
                )
