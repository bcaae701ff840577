"""The files that sentence-transformers writes around a model's weights and tokenizer.

Benchmarks use this module too, so it imports neither torch nor sentencepiece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODULE = "sentence_transformers.models"
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@dataclass(frozen=True)
class Recipe:
    """What the files around the weights say, in sentence-transformers' words.

    ``pooling`` is a mode, or several joined by ``+``.
    """

    pooling: str = "mean"
    normalize: bool = True
    max_seq_length: int = 64
    do_lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None


MEAN = Recipe()
LAST_TOKEN = Recipe(pooling="lasttoken")


def write_recipe(folder: Path, recipe: Recipe, dimension: int) -> None:
    """Writes all files but weights, ``config.json`` and the tokenizer's.

    ``dimension`` is that of the token vectors.
    """
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": recipe.max_seq_length, "do_lower_case": recipe.do_lower_case},
    )
    write_pooling(folder / "1_Pooling", recipe.pooling, dimension)
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    if recipe.normalize:
        paths["Normalize"] = "2_Normalize"
    write_modules(folder, list(paths.items()))
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": dict(recipe.prompts), "default_prompt_name": recipe.default_prompt_name},
    )


def write_pooling(folder: Path, pooling: str, dimension: int) -> None:
    """Writes a Pooling module's config, as sentence-transformers did before version 5."""
    chosen = pooling.split("+")
    modes = {key: mode in chosen for mode, key in _POOLING_KEYS.items()}
    write_json(folder / "config.json", {"word_embedding_dimension": dimension, **modes})


def write_modules(folder: Path, modules: Sequence[tuple[str, str]]) -> None:
    """Writes ``modules.json``: pairs of a kind, such as ``Pooling``, and its folder."""
    described = [
        {"idx": i, "name": str(i), "path": path, "type": f"{MODULE}.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", described)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False))


def edit_json(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; a key set to None is taken out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
