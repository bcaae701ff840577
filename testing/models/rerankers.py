"""Tiny rerankers with random weights: sequence classifiers as their authors save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from testing.models.files import edit_json
from testing.models.tiny import save_bert, save_encoder, save_xlm_roberta

Save = Callable[[Path], Path]

BASES: dict[str, Save] = {
    "bert": save_bert,
    "xlm-roberta": save_xlm_roberta,
    "distilbert": lambda folder: save_encoder(folder, "distilbert"),
    "electra": lambda folder: save_encoder(folder, "electra"),
}


def save_reranker(
    folder: Path,
    base: str | Save = "bert",
    labels: int = 1,
    activation: str | None = None,
    **settings: Any,
) -> Path:
    """Writes a sequence classifier into ``folder``, without sentence-transformers' files; returns it.

    ``activation`` is a class of ``torch.nn`` that its ``config.json`` names.
    """
    (BASES[base] if isinstance(base, str) else base)(folder)
    without_sentence_transformers(folder)
    config = AutoConfig.from_pretrained(folder, num_labels=labels, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
        model.save_pretrained(folder)
    if activation is not None:
        stated = {"activation_fn": f"torch.nn.modules.{activation}"}
        edit_json(folder / "config.json", sentence_transformers=stated)
    return folder


def without_sentence_transformers(folder: Path) -> None:
    """Removes what makes a folder an embedding model."""
    for path in [*folder.glob("*sentence*"), folder / "modules.json"]:
        path.unlink()
