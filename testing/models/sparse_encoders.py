"""Tiny sparse encoders with random weights: masked language models with a SpladePooling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from testing.models.architectures import save_backbone
from testing.models.files import edit_json, write_json
from testing.models.rerankers import BASES as CLASSIFIERS
from testing.models.rerankers import Save, without_sentence_transformers

_MODULES = (
    "sentence_transformers.sparse_encoder.models"  # their name until sentence-transformers 5.4
)
_PACKAGE = "sentence_transformers"
BASES: dict[str, Save] = {
    **CLASSIFIERS,
    "modernbert": lambda folder: save_backbone(folder, "modernbert", limit=64),
}
# a bias that leaves about a tenth of a text's entries above zero
_FEW = -3.0


def save_sparse_encoder(
    folder: Path,
    base: str = "bert",
    pooling: Mapping[str, str] | None = None,
    by_task: bool = False,
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """Writes a sparse encoder into ``folder`` as sentence-transformers does, and returns the folder.

    ``by_task`` writes it as since version 5.4: a Transformer with a task instead of an MLMTransformer.
    ``pooling`` are settings of its SpladePooling.
    """
    BASES[base](folder)
    without_sentence_transformers(folder)
    _save_language_model(folder)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    if by_task:
        edit_json(folder / "sentence_bert_config.json", transformer_task="fill-mask")
    reader = f"{_PACKAGE}.base.modules.Transformer" if by_task else f"{_MODULES}.MLMTransformer"
    write_json(folder / "1_SpladePooling" / "config.json", {"pooling_strategy": "max"})
    edit_json(folder / "1_SpladePooling" / "config.json", **(pooling or {}))
    types = {"": reader, "1_SpladePooling": f"{_MODULES}.SpladePooling"}
    lines = [
        {"idx": i, "name": str(i), "path": path, "type": name}
        for i, (path, name) in enumerate(types.items())
    ]
    write_json(folder / "modules.json", lines)
    settings = {"model_type": "SparseEncoder", "prompts": dict(prompts or {})}
    write_json(folder / "config_sentence_transformers.json", settings)
    return folder


def _save_language_model(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForMaskedLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model.get_output_embeddings().bias.fill_(_FEW)
    model.save_pretrained(folder)
