"""What a reranker's files say: whether a model is one, and how its scores come about.

A reranker is a cross-encoder: it reads two texts as one sequence and gives a logit for the pair. Its
files are those of a sequence classifier with one label, with or without those that sentence-transformers'
`CrossEncoder` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deployments.core.errors import UnsupportedModel
from deployments.core.models.modules import Module, read_optional_json
from deployments.core.models.spec import Activation

_CLASSIFIER = "ForSequenceClassification"
_SETTINGS = "config_sentence_transformers.json"
_ACTIVATIONS = {"Identity": Activation.IDENTITY, "Sigmoid": Activation.SIGMOID}
# in config.json: today's place for the activation, and the one before sentence-transformers 4
_NEW_KEY, _OLD_KEY = "sentence_transformers", "sbert_ce_default_activation_function"


def is_reranker(folder: Path) -> bool:
    """Whether the files are those of a reranker, and not of a model that gives vectors."""
    if (folder / "modules.json").is_file():
        return read_optional_json(folder / _SETTINGS).get("model_type") == "CrossEncoder"
    config = read_optional_json(folder / "config.json")
    return _architecture(config).endswith(_CLASSIFIER) or bool({_NEW_KEY, _OLD_KEY} & config.keys())


def refuse_unsupported(folder: Path, modules: Sequence[Module], config: dict[str, Any]) -> None:
    """Raises UnsupportedModel unless this reranker is a classifier that reads pairs as they are."""
    kinds = [module.kind for module in modules]
    if kinds != ["Transformer"] or not _architecture(config).endswith(_CLASSIFIER):
        raise UnsupportedModel(
            f"{folder} is a reranker of {_architecture(config) or 'no known architecture'} with the "
            f"modules {', '.join(kinds)}; sequence classifiers are supported"
        )
    if (labels := _labels(config)) != 1:
        raise UnsupportedModel(
            f"{folder}/config.json has {labels} labels, and a reranker has one: its score"
        )
    settings = read_optional_json(folder / _SETTINGS)
    if settings.get("default_prompt_name"):
        raise UnsupportedModel(
            f"{folder}/{_SETTINGS} sets default_prompt_name, which is not supported for rerankers"
        )


def activation_of(folder: Path, config: dict[str, Any]) -> Activation:
    """Returns what makes a score of a logit, as `CrossEncoder` finds it; a sigmoid if no file says.

    Raises UnsupportedModel for any other function.
    """
    own = config.get(_NEW_KEY)
    stated = (
        read_optional_json(folder / _SETTINGS).get("activation_fn")
        or (own.get("activation_fn") if isinstance(own, dict) else None)
        or config.get(_OLD_KEY)
    )
    if stated is None:
        return Activation.SIGMOID
    name = str(stated).rpartition(".")[2]
    if not str(stated).startswith("torch.") or name not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"{folder} has the activation {stated}; {' and '.join(_ACTIVATIONS)} of torch are supported"
        )
    return _ACTIVATIONS[name]


def _architecture(config: dict[str, Any]) -> str:
    return str(next(iter(config.get("architectures") or ()), ""))


def _labels(config: dict[str, Any]) -> int:
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) else int(config.get("num_labels", 2))
