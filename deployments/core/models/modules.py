"""The modules of a model in sentence-transformers format, as its ``modules.json`` lists them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.core.errors import UnsupportedModel
from deployments.core.models.spec import Pooling

_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST_TOKEN}
# what reads texts, not token ids, computes queries differently, or gives more than one vector a text
_UNSUPPORTED = frozenset(
    {"Router", "Asym", "WordEmbeddings", "BoW", "CLIPModel", "MultiVectorMask", "SpladePooling"}
)
_INPUTS = frozenset({"Transformer", "StaticEmbedding"})


@dataclass(frozen=True)
class Module:
    """One line of ``modules.json``: the class's name and the folder of its files."""

    kind: str
    folder: Path


def read_modules(model_dir: Path) -> tuple[Module, ...]:
    """Returns a model's modules, input first.

    Raises UnsupportedModel if ``modules.json`` is missing or broken, or names a class that is not
    sentence-transformers' own or that is not supported.
    """
    path = model_dir / "modules.json"
    lines = read_json(path)
    if not isinstance(lines, list) or not lines:
        raise UnsupportedModel(
            f"{path} lists no modules; save the model with sentence-transformers"
        )
    modules = tuple(_module(path, line) for line in lines)
    if modules[0].kind not in _INPUTS:
        raise UnsupportedModel(
            f"{path} begins with a {modules[0].kind} module, not with a Transformer; save the model with "
            "sentence-transformers"
        )
    return modules


def _module(path: Path, line: Any) -> Module:
    name = str(line.get("type")) if isinstance(line, dict) else "nothing"
    if not name.startswith("sentence_transformers."):
        raise UnsupportedModel(
            f"{path} needs {name}, which is code from the model's repository; such code is never run"
        )
    kind = name.rsplit(".", 1)[-1]
    if kind in _UNSUPPORTED:
        raise UnsupportedModel(f"{path} has a {kind} module ({name}), which is not supported")
    return Module(kind, path.parent / str(line.get("path", "")))


def refuse_prompt_lengths(modules: Sequence[Module]) -> None:
    """Raises UnsupportedModel if pooling leaves the prompt out, for which its length would be needed."""
    for module in modules:
        path = module.folder / "config.json"
        if module.kind == "Pooling" and read_json(path).get("include_prompt", True) is False:
            raise UnsupportedModel(f"{path} has include_prompt: false, which is not supported")


def transformer_of(modules: Sequence[Module]) -> Path | None:
    """Returns the folder of the Transformer that reads documents; None for a StaticEmbedding."""
    first = modules[0]
    return first.folder if first.kind == "Transformer" else None


def pooling_modes(module: Module) -> list[str]:
    """Returns the modes of a Pooling module, in sentence-transformers' words and order.

    Raises UnsupportedModel for one that is not known.
    """
    path = module.folder / "config.json"
    config = read_json(path)
    legacy = [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)]
    stated = config.get("pooling_mode", legacy or "mean")
    modes = [stated] if isinstance(stated, str) else list(stated)
    if unknown := [mode for mode in modes if mode not in _LEGACY_POOLING.values()]:
        known = ", ".join(_LEGACY_POOLING.values())
        raise UnsupportedModel(f"{path} sets pooling {unknown[0]}; supported are {known}")
    return modes


def plain_pooling(modules: Sequence[Module]) -> Pooling | None:
    """Returns how a model pools that does nothing but pool and normalise; None if it does more."""
    kinds = [module.kind for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return None
    includes_prompt = read_json(modules[1].folder / "config.json").get("include_prompt", True)
    return pooling_of(modules[1]) if includes_prompt else None


def pooling_of(module: Module) -> Pooling | None:
    """Returns how a Pooling module pools; None if `Pooling` has no name for it.

    Raises UnsupportedModel for a mode that is not known.
    """
    modes = pooling_modes(module)
    return _POOLING.get(modes[0]) if len(modes) == 1 else None


def normalizes(modules: Sequence[Module]) -> bool:
    """Whether the last thing that a model does is to normalise a text's vector."""
    last = modules[-1]
    settings = read_optional_json(last.folder / "config.json") if last.kind == "Normalize" else {}
    names = {settings.get(key) for key in ("module_input_name", "module_output_name")}
    return last.kind == "Normalize" and names <= {None, "sentence_embedding"}


def output_dimension(modules: Sequence[Module]) -> int:
    """Returns the dimension of a text's vector. Raises UnsupportedModel if the files do not say it."""
    dimension = _dimension(modules)
    if dimension is None:
        raise UnsupportedModel(
            f"{modules[0].folder} has no Pooling module, so nothing makes one vector of a text's tokens; "
            "add one with sentence-transformers"
        )
    return dimension


def _dimension(modules: Sequence[Module]) -> int | None:
    dimension: int | None = None
    for module in modules:
        if module.kind == "StaticEmbedding":
            dimension = _static_dimension(module)
        elif module.kind == "Pooling":
            dimension = _pooled_dimension(module)
        elif module.kind == "Dense" and _makes_text_vector(module):
            dimension = _integer(module, "out_features")
    return dimension


def _makes_text_vector(dense: Module) -> bool:
    config = read_json(dense.folder / "config.json")
    output = config.get("module_output_name") or config.get("module_input_name")
    return output in (None, "sentence_embedding")


def _pooled_dimension(pooling: Module) -> int:
    path = pooling.folder / "config.json"
    config = read_json(path)
    dimension = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if not isinstance(dimension, int):
        raise UnsupportedModel(f"{path} lacks word_embedding_dimension, an integer")
    return dimension * len(pooling_modes(pooling))


def _static_dimension(module: Module) -> int:
    path = module.folder / "model.safetensors"
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return int(header["embedding.weight"]["shape"][1])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UnsupportedModel(
            f"{path} has no embedding.weight, so the model's dimension is not known ({error})"
        ) from error


def _integer(module: Module, key: str) -> int:
    path = module.folder / "config.json"
    value = read_json(path).get(key)
    if not isinstance(value, int):
        raise UnsupportedModel(f"{path} lacks {key}, an integer")
    return value


def read_json(path: Path) -> Any:
    """Returns a JSON file's content. Raises UnsupportedModel if it is missing or broken."""
    if not path.is_file():
        raise UnsupportedModel(f"{path} is missing; save the model with sentence-transformers")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UnsupportedModel(f"{path} is not valid JSON: {error}") from error


def read_optional_json(path: Path) -> dict[str, Any]:
    """Returns a JSON file's object; an empty one if the file is missing or holds something else."""
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
