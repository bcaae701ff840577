"""What a sparse encoder's files say: whether a model is one, and whether it can be served.

A sparse encoder (SPLADE, arXiv 2107.05720) gives each text a weight for each token of its vocabulary. Its
files are those of a masked language model with a SpladePooling, as sentence-transformers' `SparseEncoder`
writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deployments.core.errors import UnsupportedModel
from deployments.core.models.modules import Module, listed_modules, read_json, read_optional_json

_SETTINGS = "config_sentence_transformers.json"
_READERS = ("MLMTransformer", "Transformer")  # the former's name until sentence-transformers 5.4
_POOLING = "SpladePooling"
# the task of a Transformer that gives the logits of a masked language model
FILL_MASK = "fill-mask"


def is_sparse_encoder(folder: Path) -> bool:
    """Whether the files are those of a sparse encoder."""
    if not (folder / "modules.json").is_file():
        return False
    says_so = read_optional_json(folder / _SETTINGS).get("model_type") == "SparseEncoder"
    return says_so or any(module.kind == _POOLING for module in listed_modules(folder))


def refuse_unsupported(folder: Path, modules: Sequence[Module]) -> None:
    """Raises UnsupportedModel unless this sparse encoder is a masked language model and its pooling."""
    kinds = [module.kind for module in modules]
    if len(kinds) != 2 or kinds[0] not in _READERS or kinds[1] != _POOLING:
        why = (
            "; queries that pass other modules than documents are not supported"
            if "Router" in kinds
            else ""
        )
        raise UnsupportedModel(
            f"{folder} is a sparse encoder of the modules {', '.join(kinds)}; a {' or '.join(_READERS)} "
            f"with {_POOLING} is supported{why}"
        )
    if foreign := [module.type for module in modules if not module.is_own]:
        raise UnsupportedModel(
            f"{folder}/modules.json needs {foreign[0]}, which is code from the model's repository; such "
            "code is never run"
        )
    settings = read_optional_json(folder / _SETTINGS)
    if settings.get("max_active_dims") is not None:
        raise UnsupportedModel(
            f"{folder}/{_SETTINGS} sets max_active_dims, which is not supported; remove it to get all "
            "entries of each vector"
        )


def refuse_other_task(reader: Module, settings: dict[str, Any]) -> None:
    """Raises UnsupportedModel if a Transformer gives something else than a weight for each token."""
    stated = settings.get("transformer_task")
    if reader.kind == "Transformer" and stated != FILL_MASK:
        raise UnsupportedModel(
            f"{reader.folder} has transformer_task: {stated or 'feature-extraction'} before a "
            f"{_POOLING}, which needs {FILL_MASK}"
        )


def vocabulary_of(transformer: Path) -> int:
    """Returns how many tokens get a weight. Raises UnsupportedModel if the files do not say it."""
    size = read_json(transformer / "config.json").get("vocab_size")
    if not isinstance(size, int):
        raise UnsupportedModel(f"{transformer}/config.json lacks vocab_size, an integer")
    return size
