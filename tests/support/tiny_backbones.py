"""A tiny model of each backbone on the fast path, in the shapes that people deploy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from testing.models.files import Recipe
from testing.models.tiny import save_bert

_VOCABULARY = 1_000  # at least as many ids as the tokenizer has


@dataclass(frozen=True)
class TinyBackbone:
    """A backbone with changes to its config. ``pooling`` is what models of its kind use."""

    model_type: str
    pooling: str = "mean"
    changes: Mapping[str, Any] = field(default_factory=dict)
    spread: float = 0.3  # of the weights, so wide that texts lie far apart


_GQA = {"num_key_value_heads": 2, "head_dim": 8}
_GEMMA = {
    "num_key_value_heads": 1,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}

BACKBONES = {
    "distilbert": TinyBackbone("distilbert"),
    "mpnet": TinyBackbone("mpnet"),
    "modernbert": TinyBackbone(
        "modernbert",
        "cls",
        {"num_hidden_layers": 3, "global_attn_every_n_layers": 2, "local_attention": 16},
    ),
    "nomic": TinyBackbone("nomic_bert"),
    "gte": TinyBackbone("gte", "cls", spread=0.2),
    "gte without token types": TinyBackbone("gte", "cls", {"type_vocab_size": 0}, 0.15),
    "qwen3": TinyBackbone("qwen3", "lasttoken", _GQA, 0.2),
    "qwen3 with windows": TinyBackbone(
        "qwen3",
        "lasttoken",
        {**_GQA, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        0.2,
    ),
    "qwen2": TinyBackbone("qwen2", "lasttoken", {"num_key_value_heads": 2}, 0.2),
    "qwen2 both ways": TinyBackbone(
        "qwen2", "mean", {"num_key_value_heads": 2, "is_causal": False}, 0.2
    ),
    "llama": TinyBackbone("llama", "lasttoken", {"num_key_value_heads": 2}, 0.2),
    "llama both ways": TinyBackbone(
        "llama", "mean", {"num_key_value_heads": 2, "is_causal": False}, 0.2
    ),
    "mistral both ways": TinyBackbone("mistral", "mean", {**_GQA, "is_causal": False}, 0.2),
    "gemma3 both ways": TinyBackbone(
        "gemma3_text", "mean", {**_GEMMA, "use_bidirectional_attention": True}, 0.2
    ),
    "gemma3": TinyBackbone("gemma3_text", "lasttoken", _GEMMA, 0.2),
}


def save_backbone(folder: Path, name: str, recipe: Recipe | None = None) -> Path:
    """Writes a tiny model with BERT's kind of tokenizer into ``folder`` and returns it."""
    backbone = BACKBONES[name]
    recipe = recipe or Recipe(pooling=backbone.pooling, max_seq_length=200)
    save_bert(folder, recipe)
    sizes: dict[str, Any] = {
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": recipe.max_seq_length + 2,
        "pad_token_id": 0,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": backbone.spread,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), 2),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 3),
    }
    config = AutoConfig.for_model(backbone.model_type, **{**sizes, **backbone.changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    return folder
