"""Model folders as they are found on hubs: families, poolings, modules, tokenizers, layouts, settings.

`COMBINATIONS` has more than two hundred of them, by name. Each is written on the spot, with random
weights. Some cannot be honoured by anyone, others not by this service; all the rest must give
sentence-transformers' vectors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Gemma3Config, Gemma3ImageProcessor, PreTrainedModel

from testing.models.architectures import FAMILIES, HIDDEN, save_family
from testing.models.files import (
    MEAN,
    MODULE,
    Recipe,
    edit_json,
    write_json,
    write_modules,
)

Edit = Callable[[Path], None]
LIMIT = 48
_RECIPE = replace(MEAN, max_seq_length=LIMIT)
POOLINGS = (
    "mean",
    "cls",
    "lasttoken",
    "max",
    "weightedmean",
    "mean_sqrt_len_tokens",
    "cls+mean",
    "max+mean+lasttoken",
)
E5_PROMPTS = {"query": "query: ", "passage": "passage: "}
INSTRUCT = "Instruct: Find what answers\nQuery: "


@dataclass(frozen=True)
class Combination:
    """A family of models, the recipe around it, and edits of its files."""

    family: str
    recipe: Recipe = _RECIPE
    edits: tuple[Edit, ...] = ()

    def save(self, folder: Path) -> Path:
        """Writes the model's files into ``folder`` and returns it."""
        save_family(folder, self.family, self.recipe)
        for edit in self.edits:
            edit(folder)
        return folder


def _json_edit(name: str, **changes: Any) -> Edit:
    return lambda folder: edit_json(folder / name, **changes)


def tokenizer_setting(**changes: Any) -> Edit:
    """Returns an edit of ``tokenizer_config.json``."""
    return _json_edit("tokenizer_config.json", **changes)


def setting(**changes: Any) -> Edit:
    """Returns an edit of ``sentence_bert_config.json``."""
    return _json_edit("sentence_bert_config.json", **changes)


def network(**changes: Any) -> Edit:
    """Returns an edit of ``config.json``."""
    return _json_edit("config.json", **changes)


def pooling_setting(**changes: Any) -> Edit:
    """Returns an edit of the Pooling module's config."""
    return _json_edit("1_Pooling/config.json", **changes)


def model_setting(**changes: Any) -> Edit:
    """Returns an edit of ``config_sentence_transformers.json``."""
    return _json_edit("config_sentence_transformers.json", **changes)


# modules


def _dense(folder: Path, activation: str = "Tanh", size: int = 16) -> None:
    torch.manual_seed(1)
    module = folder / "2_Dense"
    config = {"in_features": HIDDEN, "out_features": size, "bias": True}
    kind = f"torch.nn.modules.{'linear' if activation == 'Identity' else 'activation'}.{activation}"
    write_json(module / "config.json", config | {"activation_function": kind})
    weights = {"linear.weight": torch.randn(size, HIDDEN), "linear.bias": torch.randn(size)}
    save_file(weights, module / "model.safetensors")


def _layer_norm(folder: Path) -> None:
    torch.manual_seed(1)
    write_json(folder / "2_LayerNorm" / "config.json", {"dimension": HIDDEN})
    weights = {"norm.weight": torch.rand(HIDDEN) + 0.5, "norm.bias": torch.randn(HIDDEN)}
    save_file(weights, folder / "2_LayerNorm" / "model.safetensors")


_FOLDERS = {
    "Transformer": "",
    "Pooling": "1_Pooling",
    "Dense": "2_Dense",
    "LayerNorm": "2_LayerNorm",
    "Normalize": "3_Normalize",
    "Dropout": "4_Dropout",
}


def modules(*kinds: str, activation: str = "Tanh") -> Edit:
    """Returns an edit that puts these modules in a row."""

    def edit(folder: Path) -> None:
        if "Dense" in kinds:
            _dense(folder, activation)
        if "LayerNorm" in kinds:
            _layer_norm(folder)
        if "Dropout" in kinds:
            write_json(folder / "4_Dropout" / "config.json", {"dropout": 0.2})
        write_modules(folder, [(kind, _FOLDERS[kind]) for kind in kinds])

    return edit


def _normalize_tokens(folder: Path) -> None:
    write_json(folder / "3_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    write_modules(
        folder, [("Transformer", ""), ("Normalize", "3_Normalize"), ("Pooling", "1_Pooling")]
    )


def _foreign_module(folder: Path) -> None:
    path = folder / "modules.json"
    lines = json.loads(path.read_text())
    lines[0]["type"] = "custom_st.Transformer"
    write_json(path, lines)


def _new_class_names(folder: Path) -> None:
    """As sentence-transformers 5.5 and later write them."""
    path = folder / "modules.json"
    text = path.read_text()
    for kind in ("Transformer", "Normalize"):
        text = text.replace(f"{MODULE}.{kind}", f"sentence_transformers.base.modules.{kind}")
    path.write_text(text.replace(MODULE, "sentence_transformers.sentence_transformer.modules"))
    write_json(
        folder / "1_Pooling" / "config.json",
        {"embedding_dimension": HIDDEN, "pooling_mode": "mean", "include_prompt": True},
    )


def _static(folder: Path) -> None:
    module = folder / "0_StaticEmbedding"
    module.mkdir()
    (folder / "tokenizer.json").rename(module / "tokenizer.json")
    torch.manual_seed(1)
    save_file({"embedding.weight": torch.randn(1_000, HIDDEN)}, module / "model.safetensors")
    for name in ("model.safetensors", "config.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    write_modules(folder, [("StaticEmbedding", module.name)])


_ROUTES = {"query": ["query_0_Dense"], "document": ["document_0_Dense"]}


def _write_router(router: Path, routes: Mapping[str, list[str]] = _ROUTES) -> None:
    """Writes a Router with a Dense of its own for each role, beside what else is in its routes."""
    for name, seed in (("query_0_Dense", 1), ("document_0_Dense", 2)):
        torch.manual_seed(seed)
        config = {"in_features": HIDDEN, "out_features": 16, "bias": False}
        kind = {"activation_function": "torch.nn.modules.linear.Identity"}
        write_json(router / name / "config.json", config | kind)
        save_file({"linear.weight": torch.randn(16, HIDDEN)}, router / name / "model.safetensors")
    kinds = {name: name.rpartition("_")[2] for route in routes.values() for name in route}
    types = {name: f"{MODULE}.{kind}" for name, kind in kinds.items()}
    parameters = {"default_route": "document", "allow_empty_key": True}
    content = {"types": types, "structure": routes, "parameters": parameters}
    write_json(router / "router_config.json", content)


def _router(folder: Path) -> None:
    """Another Dense for queries than for documents, behind one transformer."""
    _write_router(folder / "2_Router")
    write_modules(
        folder,
        [
            ("Transformer", ""),
            ("Pooling", "1_Pooling"),
            ("Router", "2_Router"),
            ("Normalize", "3_Normalize"),
        ],
    )


def _router_first(folder: Path) -> None:
    """The same in a Router alone, whose routes share a transformer and a pooling."""
    shared = ["all_0_Transformer", "all_1_Pooling"]
    _write_router(folder / "0_Router", {role: [*shared, *own] for role, own in _ROUTES.items()})
    _move_into(folder / "0_Router" / shared[0], folder)
    (folder / "1_Pooling").rename(folder / "0_Router" / shared[1])
    write_modules(folder, [("Router", "0_Router")])


def _router_of_two(folder: Path) -> None:
    """A Router whose routes have a transformer each."""
    routes = {role: [f"{role}_0_Transformer", f"{role}_1_Pooling"] for role in _ROUTES}
    router = folder / "0_Router"
    _write_router(router, routes)
    _move_into(router / routes["query"][0], folder)
    (folder / "1_Pooling").rename(router / routes["query"][1])
    for of_queries, of_documents in zip(*routes.values(), strict=True):
        shutil.copytree(router / of_queries, router / of_documents)
    write_modules(folder, [("Router", "0_Router")])


# weights


def _bin(folder: Path) -> None:
    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()


def _sharded(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = sorted(load_file(path).items())
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    halves = (dict(tensors[::2]), dict(tensors[1::2]))
    for name, half in zip(names, halves, strict=True):
        save_file(half, folder / name, {"format": "pt"})
    places = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    path.unlink()


def prefixed(prefix: str) -> Edit:
    """Returns an edit that gives the weights the names that they have below a head."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = {f"{prefix}{name}": value for name, value in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})

    return edit


def stored_as(dtype: torch.dtype) -> Edit:
    """Returns an edit that stores the weights in this precision."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = {name: value.to(dtype) for name, value in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})

    return edit


def _missing_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(max(tensors, key=lambda name: (tensors[name].dim(), name)))
    save_file(tensors, path, {"format": "pt"})


def _subfolder(folder: Path) -> None:
    """As sentence-transformers before 2.0 saved the transformer."""
    _move_into(folder / "0_Transformer", folder)
    path = folder / "modules.json"
    path.write_text(path.read_text().replace('"path": ""', '"path": "0_Transformer"'))


def _move_into(inner: Path, folder: Path) -> None:
    """Moves a transformer's files into a folder of their own."""
    inner.mkdir(parents=True)
    outer = {"modules.json", "config_sentence_transformers.json"}
    for path in [path for path in folder.iterdir() if path.is_file() and path.name not in outer]:
        path.rename(inner / path.name)


def _fewer_rows(folder: Path) -> None:
    """The table of token embeddings ends before the vocabulary does."""
    path, rows = folder / "model.safetensors", 900
    tensors = load_file(path)
    largest = max(len(value) for value in tensors.values())
    cut = {name: v[:rows].clone() if len(v) == largest else v for name, v in tensors.items()}
    save_file(cut, path, {"format": "pt"})
    edit_json(folder / "config.json", vocab_size=rows)


def _multimodal(folder: Path) -> None:
    """Gemma 3 with its eyes: the config of what reads texts is a part of the model's config."""
    text = json.loads((folder / "config.json").read_text())
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 4, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    Gemma3ImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    edit_json(folder / "preprocessor_config.json", processor_class="Gemma3Processor")
    edit_json(
        folder / "tokenizer_config.json",
        **{f"{name}_token": "<unk>" for name in ("image", "boi", "eoi")},
    )


def _adapter(folder: Path) -> None:
    write_json(
        folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "x"}
    )


# tokenizers


def _vocabulary_only(folder: Path) -> None:
    """WordPiece's ``vocab.txt``, or the ``vocab.json`` and ``merges.txt`` of a byte-level BPE."""
    path = folder / "tokenizer.json"
    model = json.loads(path.read_text())["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    if "merges" in model:
        write_json(folder / "vocab.json", model["vocab"])
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    else:
        (folder / "vocab.txt").write_text("\n".join([*words, ""]))
    path.unlink()


def _typed_template(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for part in tokenizer["post_processor"]["single"]:
        for piece in part.values():
            piece["type_id"] = 1
    write_json(path, tokenizer)
    # the class of BERT brings its own template
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _no_template(folder: Path) -> None:
    path = folder / "tokenizer.json"
    write_json(path, json.loads(path.read_text()) | {"post_processor": None})


_TOKEN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def _added_tokens(folder: Path) -> None:
    word = _TOKEN | {"content": "the", "special": False}
    mark = _TOKEN | {"content": "<mark>", "special": True}
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder={"1000": word, "1001": mark})


def _baked_truncation(direction: str) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        rule = {"max_length": 12, "strategy": "LongestFirst", "stride": 0, "direction": direction}
        write_json(path, tokenizer | {"truncation": rule})

    return edit


def _no_limit(folder: Path) -> None:
    edit_json(folder / "sentence_bert_config.json", max_seq_length=None)
    edit_json(folder / "tokenizer_config.json", model_max_length=None)


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*.json"):
        path.unlink()


def _message(folder: Path) -> None:
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    edit_json(
        folder / "sentence_bert_config.json",
        modality_config={"text": text, "message": text | {"format": "flat"}},
        module_output_name="token_embeddings",
    )
    template = "{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}"
    edit_json(folder / "tokenizer_config.json", chat_template=template)


def output(name: Any) -> Edit:
    """Returns an edit that reads another output of the transformer."""
    text = {"method": "forward", "method_output_name": name}
    return setting(modality_config={"text": text}, module_output_name="token_embeddings")


TOKENIZER_QUIRKS: dict[str, Edit] = {
    "lower case": tokenizer_setting(do_lower_case=True),
    "no lower case": tokenizer_setting(do_lower_case=False),
    "truncation left": tokenizer_setting(truncation_side="left"),
    "padding left": tokenizer_setting(padding_side="left"),
    "prefix space": tokenizer_setting(add_prefix_space=True),
    "added tokens": _added_tokens,
    "vocabulary only": _vocabulary_only,
    "baked truncation": _baked_truncation("Right"),
    "baked truncation left": _baked_truncation("Left"),
    "template with types": _typed_template,
    "no template": _no_template,
    "end token asked for": tokenizer_setting(add_eos_token=True, add_bos_token=True),
    "general class": tokenizer_setting(tokenizer_class="PreTrainedTokenizerFast"),
    "no class": tokenizer_setting(tokenizer_class=None),
    "class of Qwen": tokenizer_setting(tokenizer_class="Qwen2Tokenizer"),
    "class of Llama": tokenizer_setting(tokenizer_class="LlamaTokenizer"),
    "no limit": _no_limit,
    "no tokenizer": _without_tokenizer,
    "strips accents": tokenizer_setting(strip_accents=True),
    "no Chinese": tokenizer_setting(tokenize_chinese_chars=False),
}
LAYOUTS: dict[str, Edit] = {
    "sharded": _sharded,
    "bin": _bin,
    "float16": stored_as(torch.float16),
    "bfloat16": stored_as(torch.bfloat16),
    "missing tensor": _missing_tensor,
    "subfolder": _subfolder,
    "adapter": _adapter,
    "remote code": network(auto_map={"AutoModel": "modeling_x.Model"}, model_type="foreign"),
    "native in spite of remote code": network(auto_map={"AutoModel": "modeling_x.Model"}),
    "smaller table": network(vocab_size=900),
    "fewer rows than words": _fewer_rows,
}
SETTINGS: dict[str, Edit] = {
    "do_lower_case": setting(do_lower_case=True),
    "tokenizer_args": setting(tokenizer_args={"model_max_length": 16}),
    "processor_kwargs": setting(processor_kwargs={"truncation_side": "left"}),
    "config_args": setting(config_args={"num_hidden_layers": 1}),
    "model_args": setting(model_args={"attn_implementation": "eager"}),
    "message": _message,
    "earlier layer": output(["hidden_states", 1]),
    "stated output": output("last_hidden_state"),
    "query_length": setting(query_length=8),
    "processing_kwargs": setting(processing_kwargs={"text": {"max_length": 8}}),
    "fill-mask": setting(transformer_task="fill-mask"),
    "truncate_dim": model_setting(truncate_dim=16),
    "include_prompt": pooling_setting(include_prompt=False),
    "no sentence_bert_config": lambda folder: (folder / "sentence_bert_config.json").unlink(),
    "no config_sentence_transformers": lambda folder: (
        folder / "config_sentence_transformers.json"
    ).unlink(),
    "no modules.json": lambda folder: (folder / "modules.json").unlink(),
    "new class names": _new_class_names,
}
PROMPTS: dict[str, Recipe] = {
    "E5": replace(_RECIPE, prompts=E5_PROMPTS),
    "query only": replace(_RECIPE, prompts={"query": "search: "}),
    "document": replace(_RECIPE, prompts={"query": "q: ", "document": "d: "}),
    "empty": replace(_RECIPE, prompts={"query": "", "document": ""}),
    "default": replace(_RECIPE, prompts={"s2s": "same: "}, default_prompt_name="s2s"),
    "default query": replace(_RECIPE, prompts=E5_PROMPTS, default_prompt_name="query"),
    "default with an empty query": replace(
        _RECIPE, prompts={"query": "", "s2s": "same: "}, default_prompt_name="s2s"
    ),
    "instruct": replace(_RECIPE, prompts={"query": INSTRUCT, "document": ""}),
}
MODULES: dict[str, Edit] = {
    "plain": modules("Transformer", "Pooling"),
    "Dense": modules("Transformer", "Pooling", "Dense"),
    "Dense, identity, normalised": modules(
        "Transformer", "Pooling", "Dense", "Normalize", activation="Identity"
    ),
    "normalised, then Dense": modules("Transformer", "Pooling", "Normalize", "Dense"),
    "LayerNorm": modules("Transformer", "Pooling", "LayerNorm", "Normalize"),
    "Dropout": modules("Transformer", "Pooling", "Dropout", "Normalize"),
    "Dropout last": modules("Transformer", "Pooling", "Normalize", "Dropout"),
    "Normalize before Pooling": modules("Transformer", "Normalize", "Pooling"),
    "normalised tokens": _normalize_tokens,
    "no Pooling": modules("Transformer", "Normalize"),
    "Router": _router,
    "Router first": _router_first,
    "Router of two": _router_of_two,
    "StaticEmbedding": _static,
    "foreign": _foreign_module,
}


def beyond_positions(limit: int) -> Edit:
    """Returns an edit that states a limit which the network has no positions for."""

    def edit(folder: Path) -> None:
        edit_json(folder / "sentence_bert_config.json", max_seq_length=limit)
        edit_json(folder / "tokenizer_config.json", model_max_length=limit)

    return edit


# what only models of one family have
OF_ONE_FAMILY: dict[str, dict[str, Edit]] = {
    "gpt2": {"beyond its positions": beyond_positions(2 * LIMIT)},
    "bert": {"beyond its positions": beyond_positions(2 * LIMIT)},
    "mpnet": {"beyond its positions": beyond_positions(2 * LIMIT)},
    "big_bird": {
        "block-sparse": network(attention_type="block_sparse", block_size=4, num_random_blocks=1)
    },
    "gemma3_text": {"with eyes": _multimodal},
}
ATTENTION: dict[str, Edit] = {
    "attends both ways": network(is_causal=False),
    "attends to a window": network(sliding_window=8),
}
_CAUSAL = ("mistral", "llama", "qwen2", "qwen3")
_PREFIXES = {"bert": "bert.", "xlm-roberta": "roberta.", "mistral": "model.", "qwen2": "model."}


# quirks that not every family's tokenizer can have
_ONLY: dict[str, tuple[str, ...]] = {
    "vocabulary only": ("bert", "roberta", "qwen2", "mistral"),
    "template with types": ("bert", "xlm-roberta", "mistral"),
    "class of Llama": ("roberta", "qwen2", "mistral"),
    # sentence-transformers reads two positions too many, and fails on long texts
    "no limit": ("bert", "mistral", "qwen2"),
}


def _families() -> Iterator[tuple[str, Combination]]:
    for family in FAMILIES:
        for pooling in ("mean", "lasttoken" if family in _CAUSAL else "cls"):
            yield f"{family}, {pooling}", Combination(family, replace(_RECIPE, pooling=pooling))


def _poolings() -> Iterator[tuple[str, Combination]]:
    for family in ("bert", "xlm-roberta", "mistral", "modernbert"):
        for pooling in POOLINGS[2:]:
            recipe = replace(_RECIPE, pooling=pooling)
            yield f"{family}, {pooling}", Combination(family, recipe)


def _edited(
    families: tuple[str, ...], edits: Mapping[str, Edit], what: str
) -> Iterator[tuple[str, Combination]]:
    for family in families:
        for name, edit in edits.items():
            if family in _ONLY.get(name, families):
                yield f"{family}, {what}: {name}", Combination(family, edits=(edit,))


def _prompts() -> Iterator[tuple[str, Combination]]:
    for family in ("xlm-roberta", "mistral"):
        for name, recipe in PROMPTS.items():
            yield f"{family}, prompts: {name}", Combination(family, recipe)


def _prompts_that_are_not_pooled() -> Iterator[tuple[str, Combination]]:
    edits = (pooling_setting(include_prompt=False),)
    for family in ("bert", "xlm-roberta", "mistral"):
        for pooling in POOLINGS:
            recipe = replace(_RECIPE, pooling=pooling, prompts=E5_PROMPTS)
            yield f"{family}, {pooling} without the prompt", Combination(family, recipe, edits)
        recipe = replace(_RECIPE, prompts=E5_PROMPTS)
        both = Combination(family, recipe, (*edits, _router))
        yield f"{family}, Router without the prompt", both


def _attention() -> Iterator[tuple[str, Combination]]:
    for family in _CAUSAL:
        for name, edit in ATTENTION.items():
            recipe = replace(_RECIPE, pooling="mean" if "both" in name else "lasttoken")
            yield f"{family}, {name}", Combination(family, recipe, edits=(edit,))


def _all() -> Iterator[tuple[str, Combination]]:
    yield from _families()
    yield from _poolings()
    yield from _edited(("bert", "mistral"), MODULES, "modules")
    yield from _edited(
        ("bert", "roberta", "xlm-roberta", "mistral", "qwen2"), TOKENIZER_QUIRKS, "tokenizer"
    )
    yield from _edited(("bert", "qwen2"), LAYOUTS, "weights")
    yield from _edited(("bert", "qwen2"), SETTINGS, "setting")
    yield from _prompts()
    yield from _prompts_that_are_not_pooled()
    yield from _attention()
    for family, edits in OF_ONE_FAMILY.items():
        yield from _edited((family,), edits, "limits")
    for family, prefix in _PREFIXES.items():
        yield f"{family}, weights below {prefix}", Combination(family, edits=(prefixed(prefix),))


COMBINATIONS: dict[str, Combination] = dict(_all())
