"""From a model's name in the config to its description and its files."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from deployments.core.errors import UnsupportedModel
from deployments.core.models.catalog import by_name_or_repo, catalog_model, refusal
from deployments.core.models.conversion import with_safetensors
from deployments.core.models.local_format import content_hash, position_limit, read_spec
from deployments.core.models.overrides import NO_OVERRIDES, Overrides, applied
from deployments.core.models.relatives import with_prompts_of_relative
from deployments.core.models.spec import Kind, ModelSpec, other_model
from deployments.core.models.weights import check_sha256, find_files

_COMMIT = re.compile(r"[0-9a-f]{40}")
# what a backbone was called in the code of its own repository, before transformers had it
_NAMES_OF_OLD = {"gte": "new"}


@dataclass(frozen=True)
class ModelFiles:
    """What is known of a model before its tokenizer is read, and the folder that holds its files.

    ``described_by_files`` says that neither a model card nor the config adds anything to the files.
    """

    spec: ModelSpec
    folder: Path
    described_by_files: bool = False


def find_model(
    name: str,
    path: str | None = None,
    revision: str | None = None,
    overrides: Overrides = NO_OVERRIDES,
    *,
    weights: bool = True,
) -> ModelFiles:
    """Returns a configured model's description and files; blocks while they are downloaded.

    ``path`` is a folder or hub id for a model outside the catalog, or for the user's own copy of a
    catalog model. A hub id of the catalog means the catalog's model, whatever its name, because its
    files lack the prompts. ``overrides`` are the config's. Without ``weights``, only tokenizer and
    configuration files are needed. Raises ModelUnavailable or UnsupportedModel, with the reason and the
    fix.
    """
    if reason := refusal(path or name):
        raise UnsupportedModel(f"{path or name} is not supported: {reason}")
    files = _locate(name, path, revision, overrides, weights)
    spec = applied(files.spec, overrides, position_limit(files.folder))
    folder = with_safetensors(files.folder, path or name) if weights else files.folder
    return ModelFiles(spec, folder)


def _locate(
    name: str, path: str | None, revision: str | None, overrides: Overrides, weights: bool
) -> ModelFiles:
    known = catalog_model(name, path)
    if known is None:
        return _from_own_files(name, path or name, revision, overrides, weights)
    if by_name_or_repo(name) is None or name.lower() == known.repo.lower():
        path = None  # the hub id named the model, so it is not a place of the user's own
    described, code = not known.has_further_modules, overrides.trust_remote_code
    if path is None and revision in (None, known.revision):
        folder = find_files(
            known.repo,
            known.revision,
            known.package,
            weights=weights,
            described=described,
            code=code,
        )
        if weights and known.weights_sha256:
            check_sha256(folder, known.weights_sha256)
        return ModelFiles(with_modules_of(known, folder, overrides), folder)
    folder = find_files(
        path or known.repo, revision, weights=weights, described=described, code=code
    )
    # other weights make an embedding space of their own, unless the user states their revision
    spec = replace(known, revision=revision or _commit_of(folder) or content_hash(folder))
    return ModelFiles(with_modules_of(spec, folder, overrides), folder)


def _from_own_files(
    name: str, source: str, revision: str | None, overrides: Overrides, weights: bool
) -> ModelFiles:
    described = overrides.pooling is not None
    code = overrides.trust_remote_code
    folder = find_files(source, revision, weights=weights, described=described, code=code)
    spec = read_spec(name, folder, revision or _commit_of(folder), overrides)
    if overrides.prompts is None and spec.kind is Kind.EMBEDDER:
        spec = with_prompts_of_relative(spec, folder, source)
    # a hub id identifies the model everywhere, unlike the folder of this machine's cache
    named = spec if Path(source).is_dir() else replace(spec, repo=source)
    return ModelFiles(named, folder, overrides == NO_OVERRIDES and not spec.notices)


def with_modules_of(
    card: ModelSpec, folder: Path, overrides: Overrides = NO_OVERRIDES
) -> ModelSpec:
    """Returns a catalog model's description, with the modules that its files state.

    The card decides what texts the model reads and how long they may be, the files decide what is
    computed from them. Raises UnsupportedModel as `read_spec` does, and if they are another model's.
    """
    says_all = card.question is not None or card.kind is Kind.EMBEDDER
    if says_all and not (folder / "modules.json").is_file():
        return card
    own = read_spec(card.name, folder, card.revision, overrides)
    backbones = (card.backbone, _NAMES_OF_OLD.get(card.backbone))
    if own.dimension != card.dimension or own.backbone not in backbones:
        raise other_model(card, own.backbone, own.dimension)
    return replace(
        card,
        backbone=own.backbone,
        pooling=own.pooling,
        activation=own.activation,
        dimension=own.dimension,
        special_tokens=card.special_tokens or own.special_tokens,
        lowercase=own.lowercase,
        needs_prompts=own.needs_prompts,
        truncatable_dimensions=tuple(
            sorted({*card.truncatable_dimensions, *own.truncatable_dimensions})
        ),
        default_dimension=own.default_dimension,
    )


def _commit_of(folder: Path) -> str | None:
    """Returns the commit of a hub snapshot, which is its folder's name."""
    return folder.name if _COMMIT.fullmatch(folder.name) else None
