"""The catalog: what model cards say of the models that people run, and their files do not.

Prompts, query instructions, recommended lengths, languages, licence and published scores, each model
pinned to a commit. Commits, parameters and most languages are those of MTEB
(https://github.com/embeddings-benchmark/mteb, ``mteb/models/model_implementations``); each family's file
names the sources of the rest. Any other model is read from its own files by `local_format`.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from deployments.core.models.catalog import (
    bge,
    decoders,
    e5,
    rerankers,
    retrieval,
    sentence_transformers,
)
from deployments.core.models.spec import ModelSpec

_MODELS = (
    *sentence_transformers.MODELS,
    *e5.MODELS,
    *bge.MODELS,
    *retrieval.MODELS,
    *decoders.MODELS,
    *rerankers.MODELS,
)

CATALOG: dict[str, ModelSpec] = {spec.name: spec for spec in _MODELS}
_BY_NAME = {spec.name.lower(): spec.name for spec in _MODELS}
_BY_REPO = {spec.repo.lower(): spec.name for spec in _MODELS}

# Known models that cannot be served with the right vectors, by hub id, and why.
REFUSED = {
    "jinaai/jina-embeddings-v3": (
        "it chooses a LoRA adapter by task, in code of its own, and without one its vectors are others"
    ),
}


def by_name_or_repo(name: str) -> ModelSpec | None:
    """Returns the catalog's model of this name or hub id, in any letter case, if there is one."""
    known = _BY_NAME.get(name.lower()) or _BY_REPO.get(name.lower())
    return CATALOG[known] if known else None


def catalog_model(name: str, path: str | None = None) -> ModelSpec | None:
    """Returns the catalog's entry for a configured model, by name or by hub id, or None.

    The hub id counts as well because the files on the hub lack the prompts.
    """
    if known := _BY_NAME.get(name.lower()):
        return replace(CATALOG[known], name=name)
    source = path or name
    repo = _BY_REPO.get(source.lower())
    if repo is None or Path(source).is_dir():
        return None
    return replace(CATALOG[repo], name=name)


def refusal(source: str) -> str | None:
    """Returns why a known model cannot be served, or None."""
    reasons = {repo.lower(): reason for repo, reason in REFUSED.items()}
    return reasons.get(source.lower())


def did_you_mean(name: str) -> str:
    """Returns a question with the catalog's names that are like this one, or nothing."""
    close = get_close_matches(name.lower(), _BY_NAME, n=3, cutoff=0.6)
    names = " or ".join(_BY_NAME[lower] for lower in close)
    return f" (did you mean {names}?)" if close else ""
