"""Tiny models with random weights in the format of the real ones, made on the spot.

Each `save_…` writes a folder as `sentence-transformers` does: ``model.safetensors``,
``config.json``, ``tokenizer.json``, ``tokenizer_config.json``, ``special_tokens_map.json``,
``modules.json``, ``1_Pooling/config.json``, ``sentence_bert_config.json`` and
``config_sentence_transformers.json``. The vectors mean nothing, but they tell a wrong recipe from
the right one: weights are drawn so wide that different texts lie far apart, yet not so wide
that bfloat16 loses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    MistralConfig,
    MistralModel,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.utils.logging import disable_progress_bar

from testing.models.files import LAST_TOKEN, MEAN, Recipe, write_json, write_recipe
from testing.models.tokenizers import byte_fallback, unigram, wordpiece

_WIDE, _NARROW = 0.3, 0.1  # deviation of the weights at 32 dimensions
_BERT = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True)
class Shape:
    """How large a tiny model is, and the seed of its weights. ``hidden`` must divide by 8."""

    hidden: int = 32
    layers: int = 2
    vocabulary: int = 1_000
    seed: int = 0


def save_bert(
    folder: Path, recipe: Recipe = MEAN, shape: Shape = Shape(), cased: bool = False
) -> Path:
    """Writes a BERT with a WordPiece tokenizer into ``folder`` and returns it.

    Its ``tokenizer.json`` carries a truncation and a padding to 16 tokens, as MiniLM's carries one
    to 128. A ``cased`` one leaves capitals to ``recipe.do_lower_case``.
    """
    tokenizer = wordpiece(shape.vocabulary, cased)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=recipe.max_seq_length,
        pad_token_id=0,
        **_sizes(shape, _WIDE),
    )
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": not cased}
    _save(folder, _drawn(BertModel, config, shape), tokenizer, _BERT | settings, recipe)
    return folder


def save_encoder(
    folder: Path, model_type: str, recipe: Recipe = MEAN, shape: Shape = Shape()
) -> Path:
    """Writes an encoder of any type that transformers knows, with BERT's kind of tokenizer."""
    tokenizer = wordpiece(shape.vocabulary)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=recipe.max_seq_length + 2,
        pad_token_id=0,
        **_sizes(shape, _WIDE),
    )
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    _save(folder, _drawn(AutoModel.from_config, config, shape), tokenizer, _BERT | settings, recipe)
    return folder


def save_xlm_roberta(folder: Path, recipe: Recipe = MEAN, shape: Shape = Shape()) -> Path:
    """Writes an XLM-R with a Unigram tokenizer into ``folder`` and returns it.

    It has two positions more than tokens, as the real ones have 514 for 512.
    """
    tokenizer = unigram(shape.vocabulary)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=recipe.max_seq_length + 2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        type_vocab_size=1,
        **_sizes(shape, _WIDE),
    )
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
    }
    names |= {"pad_token": "<pad>", "mask_token": "<mask>"}
    settings = {"tokenizer_class": "XLMRobertaTokenizer"}
    _save(folder, _drawn(XLMRobertaModel, config, shape), tokenizer, names | settings, recipe)
    return folder


def save_mistral(folder: Path, recipe: Recipe = LAST_TOKEN, shape: Shape = Shape()) -> Path:
    """Writes a causal Mistral with byte-fallback BPE into ``folder`` and returns it.

    Its files contradict each other as e5-mistral's do: ``tokenizer.json`` adds ``<s>`` only,
    ``tokenizer_config.json`` asks for ``</s>`` too (embeddings-benchmark/mteb#5237).
    """
    tokenizer = byte_fallback(shape.vocabulary)
    config = MistralConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=32_768,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        sliding_window=4_096,
        **_sizes(shape, _NARROW),
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True}
    settings |= {"legacy": True, "model_max_length": 1_000_000_000_000_000_019_884_624_838_656}
    _save(folder, _drawn(MistralModel, config, shape), tokenizer, names | settings, recipe)
    return folder


def _sizes(shape: Shape, spread: float) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": 64,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": 4,
        "initializer_range": spread * (32 / shape.hidden) ** 0.5,
    }


def _drawn(make: Callable[[Any], PreTrainedModel], config: Any, shape: Shape) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        return make(config)


def _save(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
    recipe: Recipe,
) -> None:
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {key: value for key, value in settings.items() if isinstance(value, str)}
    special.pop("tokenizer_class")
    limit = {"model_max_length": recipe.max_seq_length}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {**limit, **settings})
    write_recipe(folder, recipe, int(model.config.hidden_size))
