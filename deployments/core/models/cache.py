"""A folder on this machine for what takes long to find out about a model's files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

log = logging.getLogger(__name__)
# what decides how files are read and computed
_LIBRARIES = ("embedfleet", "sentence-transformers", "tokenizers", "torch", "transformers")


def cache_folder() -> Path:
    """Returns ``$EMBEDFLEET_CACHE``, or ``embedfleet`` in the model cache (``HF_HOME``)."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("EMBEDFLEET_CACHE") or Path(HF_HOME) / "embedfleet")


def cache_key(**parts: Any) -> str:
    """Returns a key of these parts, the versions of the libraries, and the code that uses them."""
    made_by = {"versions": _versions(), "code": _code()}
    content = json.dumps({**parts, **made_by}, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


@cache
def _code() -> str:
    return hash_of_code(Path(__file__).parents[1])


def hash_of_code(folder: Path) -> str:
    """Returns a hash of a folder's Python files, which change between two releases too."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


@cache
def _versions() -> Mapping[str, str]:
    return {name: _version(name) for name in _LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


@contextmanager
def one_at_a_time(kind: str, key: str) -> Iterator[None]:
    """Lets the other processes of this machine that want the same wait until it has been found out."""
    folder = cache_folder() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{key}.lock").open("w")
    except OSError:  # nothing is kept then, so each finds out for itself
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_cached(kind: str, key: str) -> dict[str, Any] | None:
    """Returns what was written under this key; None if nothing was, or it cannot be read."""
    try:
        content = json.loads((cache_folder() / kind / f"{key}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_cached(kind: str, key: str, content: Mapping[str, Any]) -> None:
    """Writes this under a key, at once or not at all. A folder that cannot be written costs time only."""
    folder = cache_folder() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as file:
            json.dump(content, file)
        Path(file.name).replace(folder / f"{key}.json")
    except OSError as error:
        log.info("%s cannot be written, so it is found out again next time: %s", folder, error)
        with suppress(OSError, UnboundLocalError):
            Path(file.name).unlink(missing_ok=True)
