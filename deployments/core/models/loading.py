"""From a model's name in the config to its description and its files."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from deployments.core.models.catalog import CATALOG, catalog_model
from deployments.core.models.local_format import content_hash, read_spec
from deployments.core.models.spec import ModelSpec
from deployments.core.models.weights import check_sha256, find_files, refuse_other_weights

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelFiles:
    """A model's description and the folder that holds its files."""

    spec: ModelSpec
    folder: Path


def find_model(
    name: str, path: str | None = None, revision: str | None = None, *, weights: bool = True
) -> ModelFiles:
    """Returns a configured model's description and files; blocks while they are downloaded.

    ``path`` is a folder or hub id for a model outside the catalog, or for the user's own copy of a
    catalog model. A hub id of the catalog means the catalog's model, whatever its name, because its
    files lack the prompts. Without ``weights``, only tokenizer and configuration files are needed.
    Raises ModelUnavailable or UnsupportedModel, with the reason and the fix.
    """
    files = _locate(name, path, revision, weights)
    if weights:
        refuse_other_weights(files.folder, path or name)
    return files


def _locate(name: str, path: str | None, revision: str | None, weights: bool) -> ModelFiles:
    known = catalog_model(name, path)
    if known is None:
        source = path or name
        folder = find_files(source, revision, weights=weights)
        spec = read_spec(name, folder, revision or _commit_of(folder))
        # a hub id identifies the model everywhere, unlike the folder of this machine's cache
        return ModelFiles(spec if Path(source).is_dir() else replace(spec, repo=source), folder)
    if name not in CATALOG:
        path = None
    if path is None and revision in (None, known.revision):
        folder = find_files(
            known.repo, known.revision, known.package, weights=weights, described=True
        )
        if weights and known.weights_sha256:
            check_sha256(folder, known.weights_sha256)
        return ModelFiles(known, folder)
    folder = find_files(path or known.repo, revision, weights=weights, described=True)
    # other weights make an embedding space of their own, unless the user states their revision
    spec = replace(known, revision=revision or _commit_of(folder) or content_hash(folder))
    return ModelFiles(spec, folder)


def _commit_of(folder: Path) -> str | None:
    """Returns the commit of a hub snapshot, which is its folder's name."""
    return folder.name if _COMMIT.fullmatch(folder.name) else None
