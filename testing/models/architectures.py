"""Tiny models of every family that people deploy, with random weights and the family's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from testing.models.files import MEAN, Recipe, write_json, write_recipe
from testing.models.tokenizers import byte_fallback, byte_level, unigram, wordpiece

HIDDEN = 32
_VOCABULARY = 1_000


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer: how it is made, its class in transformers, and its special tokens' names."""

    make: Callable[[], Tokenizer]
    tokenizer_class: str
    names: Mapping[str, str]
    pad_id: int
    settings: Mapping[str, Any] = field(default_factory=dict)


_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_XLM_R = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>"}
_LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "</s>"}
_QWEN = {"eos": "<|endoftext|>", "pad": "<|endoftext|>"}

WORDPIECE = Kind(
    partial(wordpiece, _VOCABULARY), "BertTokenizer", _BERT, 0, {"do_lower_case": True}
)
CASED = Kind(
    partial(wordpiece, _VOCABULARY, cased=True), "BertTokenizer", _BERT, 0, {"do_lower_case": False}
)
UNIGRAM = Kind(partial(unigram, _VOCABULARY), "XLMRobertaTokenizer", _XLM_R, 1)
BYTE_LEVEL = Kind(
    partial(byte_level, _VOCABULARY, roberta=True),
    "RobertaTokenizer",
    _XLM_R | {"mask": "<mask>"},
    1,
)
QWEN = Kind(partial(byte_level, _VOCABULARY), "Qwen2Tokenizer", _QWEN, 0)
BYTE_FALLBACK = Kind(
    partial(byte_fallback, _VOCABULARY),
    "LlamaTokenizer",
    _LLAMA,
    2,
    {"add_bos_token": True, "add_eos_token": False, "legacy": False},
)


def generic(kind: Kind) -> Kind:
    """Returns the same tokenizer under the class of no family in particular."""
    return Kind(kind.make, "PreTrainedTokenizerFast", kind.names, kind.pad_id)


@dataclass(frozen=True)
class Family:
    """A ``model_type``, its tokenizer, and what its config needs beyond the sizes.

    ``positions`` is how many positions the table has beyond the limit. ``spread`` is the deviation of the
    weights: wide enough that texts lie apart, not so wide that rounding decides.
    """

    kind: Kind = WORDPIECE
    settings: Mapping[str, Any] = field(default_factory=dict)
    spread: float = 0.3
    positions: int = 0


_HEADS = {"num_key_value_heads": 2, "head_dim": 8}
_NARROW = 0.1
FAMILIES: dict[str, Family] = {
    "bert": Family(),
    "distilbert": Family(settings={"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    "mpnet": Family(positions=2, settings={"pad_token_id": 1}),
    "electra": Family(settings={"embedding_size": 32}),
    "albert": Family(UNIGRAM, {"embedding_size": 32}),
    "roberta": Family(BYTE_LEVEL, positions=2),
    "xlm-roberta": Family(UNIGRAM, positions=2),
    "camembert": Family(generic(UNIGRAM), positions=2),
    "deberta-v2": Family(generic(UNIGRAM), {"relative_attention": True, "type_vocab_size": 0}),
    "nomic_bert": Family(),
    "gte": Family(generic(WORDPIECE)),
    "modernbert": Family(generic(BYTE_LEVEL), {"local_attention": 16}),
    "eurobert": Family(generic(QWEN)),
    "jina_embeddings_v3": Family(UNIGRAM, spread=_NARROW),
    "ernie": Family(),
    "roformer": Family(generic(WORDPIECE)),
    "megatron-bert": Family(),
    "mobilebert": Family(settings={"embedding_size": 32, "intra_bottleneck_size": 32}),
    "big_bird": Family(generic(UNIGRAM), {"attention_type": "original_full"}),
    "nystromformer": Family(generic(UNIGRAM)),
    "fnet": Family(generic(UNIGRAM)),
    "yoso": Family(generic(UNIGRAM)),
    "layoutlm": Family(),
    "squeezebert": Family(settings={"embedding_size": HIDDEN}),
    "rembert": Family(generic(UNIGRAM), {"input_embedding_size": 32, "output_embedding_size": 32}),
    "mistral": Family(BYTE_FALLBACK, _HEADS, _NARROW, 4_000),
    "llama": Family(BYTE_FALLBACK, _HEADS, _NARROW, 4_000),
    "qwen2": Family(QWEN, _HEADS, _NARROW, 4_000),
    "qwen3": Family(QWEN, _HEADS, _NARROW, 4_000),
    "gemma3_text": Family(generic(BYTE_FALLBACK), _HEADS, _NARROW, 4_000),
    "gpt2": Family(generic(QWEN), spread=_NARROW),
    "gpt_neox": Family(generic(QWEN), spread=_NARROW, positions=4_000),
    "t5": Family(
        generic(UNIGRAM), {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    ),
    "xlnet": Family(generic(UNIGRAM), {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
}


@dataclass(frozen=True)
class Backbone:
    """A backbone of the fast path in a shape that people deploy; ``pooling`` is what its models use."""

    model_type: str
    pooling: str = "mean"
    settings: Mapping[str, Any] = field(default_factory=dict)


_SPREAD = {"initializer_range": 0.2}
_BOTH_WAYS = {"is_causal": False, **_SPREAD}
_GEMMA = {
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    **_SPREAD,
}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
BACKBONES = {
    "distilbert": Backbone("distilbert", settings={"hidden_dim": 1_024}),
    "mpnet": Backbone("mpnet"),
    "modernbert": Backbone(
        "modernbert",
        "cls",
        {"num_hidden_layers": 3, "global_attn_every_n_layers": 2, **_SPREAD},
    ),
    "nomic": Backbone("nomic_bert"),
    "gte": Backbone("gte", "cls", _SPREAD),
    "gte without token types": Backbone(
        "gte", "cls", {"type_vocab_size": 0, "initializer_range": 0.15}
    ),
    "qwen3": Backbone("qwen3", "lasttoken", _SPREAD),
    "qwen3 with windows": Backbone("qwen3", "lasttoken", _WINDOWS | _SPREAD),
    "qwen2": Backbone("qwen2", "lasttoken", _SPREAD),
    "qwen2 both ways": Backbone("qwen2", "mean", _BOTH_WAYS),
    "llama": Backbone("llama", "lasttoken", _SPREAD),
    "llama both ways": Backbone("llama", "mean", _BOTH_WAYS),
    "mistral both ways": Backbone("mistral", "mean", _BOTH_WAYS),
    "gemma3 both ways": Backbone(
        "gemma3_text", "mean", {"use_bidirectional_attention": True, **_GEMMA}
    ),
    "gemma3": Backbone("gemma3_text", "lasttoken", _GEMMA),
}
_OWN_SIZES = frozenset({"t5", "xlnet", "distilbert"})


def save_family(folder: Path, model_type: str, recipe: Recipe = MEAN, **settings: Any) -> Path:
    """Writes a tiny model of this family into ``folder`` and returns it.

    ``settings`` go into its config.
    """
    family = FAMILIES[model_type]
    tokenizer = family.kind.make()
    model = _drawn(model_type, family, recipe, tokenizer.get_vocab_size(), settings)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    save_tokenizer(folder, family.kind, tokenizer, recipe.max_seq_length)
    write_recipe(folder, recipe, HIDDEN)
    return folder


def save_backbone(folder: Path, name: str, limit: int = 200) -> Path:
    """Writes the tiny backbone of this name, for texts of up to ``limit`` tokens, and returns it."""
    backbone = BACKBONES[name]
    recipe = Recipe(pooling=backbone.pooling, max_seq_length=limit)
    return save_family(folder, backbone.model_type, recipe, **backbone.settings)


def save_tokenizer(folder: Path, kind: Kind, tokenizer: Tokenizer, limit: int) -> None:
    """Writes the tokenizer's files."""
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{name}_token": token for name, token in kind.names.items()}
    settings = {"tokenizer_class": kind.tokenizer_class, "model_max_length": limit}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {**settings, **special, **kind.settings})


def _drawn(
    model_type: str, family: Family, recipe: Recipe, vocabulary: int, settings: Mapping[str, Any]
) -> PreTrainedModel:
    # as in many models, the table has more rows than the vocabulary
    sizes: dict[str, Any] = {"vocab_size": vocabulary + 8, "pad_token_id": family.kind.pad_id}
    if model_type not in _OWN_SIZES:
        sizes |= {"hidden_size": HIDDEN, "intermediate_size": 64}
        sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    if model_type not in ("t5", "xlnet"):
        sizes["max_position_embeddings"] = recipe.max_seq_length + family.positions
    sizes["initializer_range"] = family.spread
    config = AutoConfig.for_model(model_type, **{**sizes, **family.settings, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        return model
