"""Finds a model's files on this machine or downloads them from the hub, and checks them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import socket
from pathlib import Path
from textwrap import shorten

from deployments.core.errors import ModelUnavailable
from deployments.core.models.conversion import OLD_WEIGHTS, has_safetensors, weight_files
from deployments.core.models.rerankers import is_reranker

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# the model card says which model it was trained from
_DESCRIPTION = ("*.json", "*/config.json", "*.txt", "*.model", "README.md")
# some repositories have the small Dense layers in the older format only
_WEIGHTS = ("*.safetensors", "*_Dense/pytorch_model.bin")
_CODE = ("*.py",)
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
_HUB_TIMEOUT_S = 4.0
_MAX_REASON_CHARACTERS = 300
_ACCESS_DENIED = (401, 403)


def is_hub_id(source: str) -> bool:
    """Whether this has the form of a model's id on the hub, ``owner/name``."""
    return bool(_HUB_ID.fullmatch(source))


def find_files(  # noqa: PLR0913
    source: str,
    revision: str | None,
    package: str | None = None,
    *,
    weights: bool = True,
    described: bool = False,
    code: bool = False,
) -> Path:
    """Returns the folder that holds a model's files.

    ``source`` is a local folder or a hub id; ``package`` an installed Python package that contains
    the model. Without ``weights`` only the tokenizer and the configuration files are downloaded. A
    ``described`` model (one of the catalog) needs no sentence-transformers files, nor does a reranker.
    The ``code`` of a repository is downloaded only if it is trusted. Blocks while files are downloaded.
    Raises ModelUnavailable with the reason and the fix.
    """
    if package is not None and (bundled := _in_package(package)) is not None:
        return bundled
    if Path(source).is_dir():
        return Path(source)
    if not is_hub_id(source):
        raise ModelUnavailable(
            f"{source} is neither a folder on this machine nor a hub id (owner/name); correct the "
            "model's `path` in the config"
        )
    return _from_hub(source, revision, weights, described, code)


def check_sha256(model_dir: Path, expected: str) -> None:
    """Raises ModelUnavailable unless ``model.safetensors`` has this SHA-256 (hex)."""
    path = model_dir / "model.safetensors"
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelUnavailable(f"{path} cannot be read: {error}") from error
    if digest != expected:
        raise ModelUnavailable(
            f"{path} has SHA-256 {digest}, not {expected}: the file is damaged or not the original; "
            "download it again"
        )


def _in_package(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _from_hub(repo: str, revision: str | None, weights: bool, described: bool, code: bool) -> Path:
    wanted = [*_DESCRIPTION, *(_WEIGHTS if weights else ()), *(_CODE if code else ())]
    # the cache first: files that are there need no network
    cached = _in_cache(repo, revision, wanted)
    if cached and _is_whole(cached, weights, described):
        return cached
    try:
        _reach_hub(repo)
    except ModelUnavailable:
        if cached and _may_be_whole(cached, weights):
            return cached
        raise
    folder = _download(repo, revision, wanted)
    if weights and not has_safetensors(folder):
        # the older format only, as bge-m3; most repositories have both
        return _download(repo, revision, [*wanted, *OLD_WEIGHTS])
    return folder


def _in_cache(repo: str, revision: str | None, patterns: list[str]) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=patterns, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder)


def _is_whole(folder: Path, weights: bool, described: bool) -> bool:
    """Whether all files that are needed are there, which is not so after an interrupted download."""
    needed = {"config.json", "tokenizer.json"}
    described = described or is_reranker(folder)
    if not described:
        needed.add("modules.json")
    if weights:
        needed |= _weights_of(folder)
    has_pooling = described or any(folder.glob("*/config.json"))
    return has_pooling and all((folder / name).is_file() for name in needed)


def _may_be_whole(folder: Path, weights: bool) -> bool:
    """Whether a model might load from here, though some of the usual files are not there.

    Some models have a vocabulary in place of tokenizer.json, or a folder for their first module.
    """
    has_vocabulary = any(any(folder.rglob(pattern)) for pattern in _VOCABULARIES)
    return has_vocabulary and (not weights or _has_weights(folder))


def _has_weights(folder: Path) -> bool:
    places = (folder, *folder.glob("0_*"), *folder.glob("0_*/*"))
    return any(all((place / name).is_file() for name in _weights_of(place)) for place in places)


def _weights_of(folder: Path) -> set[str]:
    if not has_safetensors(folder) and weight_files(folder):
        return _listed(folder / "pytorch_model.bin.index.json", "pytorch_model.bin")
    return _listed(folder / "model.safetensors.index.json", "model.safetensors")


def _listed(index: Path, single: str) -> set[str]:
    """Returns the files of weights that an index names, or the single one there is without an index."""
    if not index.is_file():
        return {single}
    return set(json.loads(index.read_text())["weight_map"].values())


def _download(repo: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=patterns, etag_timeout=_HUB_TIMEOUT_S
        )
    except GatedRepoError as error:
        raise ModelUnavailable(
            f"{repo} is gated: accept its licence on the hub, then set HF_TOKEN for the replicas"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelUnavailable(f"{repo} has no revision {revision} on the hub") from error
    except RepositoryNotFoundError as error:
        raise ModelUnavailable(
            f"{repo} is not on the hub, or is private: check the name, or set HF_TOKEN"
        ) from error
    except OSError as error:  # the hub's own errors are among them
        raise ModelUnavailable(_download_problem(repo, error)) from error
    return Path(folder)


def _reach_hub(repo: str) -> None:
    """Raises ModelUnavailable if nothing answers there.

    The library has no setting for how often it tries again, which takes half a minute and a warning each
    time.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # of the library's HTTP client, which is not always the same
        raise ModelUnavailable(_not_provided(repo, "cannot be reached", _reason(error))) from error


def _download_problem(repo: str, error: OSError) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import DisabledRepoError, HfHubHTTPError, LocalEntryNotFoundError

    # LocalEntryNotFoundError also wraps the hub's answers and network failures
    cause = (isinstance(error, LocalEntryNotFoundError) and error.__cause__) or error
    reason = _reason(cause)
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if status in _ACCESS_DENIED and not isinstance(cause, DisabledRepoError):
        return (
            f"the hub denies the replicas access to {repo} ({reason}); set HF_TOKEN to a valid token "
            "that may read it"
        )
    if status is None and _is_local_problem(cause):
        return (
            f"the files of {repo} cannot be written to the model cache, {HF_HUB_CACHE} ({reason}); let "
            "the replicas write there, free disk space, or set HF_HOME to another folder"
        )
    problem = "cannot be reached" if status is None else "does not provide them"
    return _not_provided(repo, problem, reason)


def _reason(error: BaseException) -> str:
    return shorten(str(error) or type(error).__name__, _MAX_REASON_CHARACTERS, placeholder=" …")


def _not_provided(repo: str, problem: str, reason: str) -> str:
    return (
        f"the files of {repo} are not on this machine and the hub {problem} ({reason}); "
        "put them in the model cache (HF_HOME), or set the model's `path` in the config"
    )


def _is_local_problem(error: BaseException) -> bool:
    """Whether it is a full disk or the like: only such errors have an errno, the hub library's do not."""
    has_errno = isinstance(error, OSError) and error.errno is not None
    return has_errno and not isinstance(error, ConnectionError | TimeoutError | socket.gaierror)
