"""Reads a model's description from its own files, in sentence-transformers format.

The files: ``modules.json``, ``1_Pooling/config.json``, ``sentence_bert_config.json``,
``config_sentence_transformers.json``, ``config.json``. A setting that is not supported is refused, and
the error names it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.core.errors import UnsupportedModel
from deployments.core.models.conversion import has_safetensors
from deployments.core.models.overrides import NO_OVERRIDES, Overrides
from deployments.core.models.spec import ModelSpec, Pooling, Prompts, SpecialTokens
from deployments.core.models.tokenizer import load_tokenizer, template_of

_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST_TOKEN}
# the first one that exists counts, as in sentence-transformers
_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_UNSUPPORTED_SETTINGS = ("query_length", "document_length", "query_expansion", "processing_kwargs")
_QUERY_PROMPTS = ("query",)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # in this order, as sentence-transformers
_INSTRUCTION = re.compile(r"Instruct: (?P<instruction>.+)\nQuery: ?", re.DOTALL)
# positions that RoBERTa-style position ids lose: padding index + 1
_RESERVED_POSITIONS = {"xlm-roberta": 2, "roberta": 2, "camembert": 2, "xlm-roberta-xl": 2}


@dataclass(frozen=True)
class _Modules:
    """``pooling`` is None if the folder has no ``modules.json`` and the config states the pooling."""

    transformer: Path
    pooling: Path | None
    normalize: bool


def read_spec(
    name: str,
    model_dir: Path,
    revision: str | None = None,
    overrides: Overrides = NO_OVERRIDES,
) -> ModelSpec:
    """Returns the description of the model in ``model_dir``.

    Without ``revision`` the hash of its files is the revision. ``overrides`` complete the files:
    pooling and length limit, if these state none. Raises UnsupportedModel, naming file and setting, if
    the model needs something that is not supported.
    """
    modules = _modules(model_dir, overrides)
    config = _json(modules.transformer / "config.json")
    _refuse_remote_code(model_dir, config, overrides.trust_remote_code)
    bert = _transformer_config(modules.transformer)
    pooling, dimension = _pooling(modules, config, overrides.pooling)
    return ModelSpec(
        name=name,
        repo=str(model_dir.absolute()),
        revision=revision or content_hash(model_dir),
        backbone=str(config.get("model_type", "unknown")),
        pooling=pooling,
        dimension=dimension,
        max_tokens=overrides.max_tokens or _max_tokens(modules.transformer, bert),
        prompts=_prompts(model_dir),
        special_tokens=_special_tokens(modules.transformer),
        normalize=modules.normalize,
        lowercase=bool(bert.get("do_lower_case", False)),
        truncatable_dimensions=_shorter(
            [*_list(config.get("matryoshka_dimensions")), _truncate_dim(model_dir)], dimension
        ),
        truncatable_from=1 if _is_matryoshka_of_any_size(config) else None,
        default_dimension=next(iter(_shorter([_truncate_dim(model_dir)], dimension)), None),
    )


def content_hash(model_dir: Path) -> str:
    """Returns the SHA-256 over the names and contents of a model's files (40 hex digits)."""
    digest = hashlib.sha256()
    kinds = {".json", ".safetensors"}
    if not has_safetensors(model_dir):
        kinds.add(".bin")
    for path in sorted(model_dir.rglob("*")):
        if path.suffix in kinds and path.is_file():
            digest.update(str(path.relative_to(model_dir)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:40]


def position_limit(model_dir: Path) -> int | None:
    """Returns the most tokens that the network has positions for, if ``config.json`` states them."""
    config = _optional_json(model_dir / "config.json")
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - _RESERVED_POSITIONS.get(str(config.get("model_type")), 0)


def _modules(model_dir: Path, overrides: Overrides) -> _Modules:
    path = model_dir / "modules.json"
    if not path.is_file():
        if overrides.pooling is None:
            raise UnsupportedModel(
                f"{path} is missing, so nothing says how {model_dir} pools; set the model's `pooling` "
                "(and `normalize`) in the config, or save it with sentence-transformers"
            )
        return _Modules(model_dir, None, bool(overrides.normalize))
    kinds: dict[str, Path] = {}
    for module in _json(path):
        kinds[_module_kind(path, str(module.get("type")))] = model_dir / module.get("path", "")
    for needed in ("Transformer", "Pooling"):
        if needed not in kinds:
            raise UnsupportedModel(
                f"{path} has no {needed} module; save the model with sentence-transformers"
            )
    if kinds["Transformer"] != model_dir:
        raise UnsupportedModel(
            f"{path} has the transformer in the subfolder {kinds['Transformer'].name}, which is not "
            "supported; save the model again with a current sentence-transformers"
        )
    return _Modules(kinds["Transformer"], kinds["Pooling"], "Normalize" in kinds)


def _module_kind(path: Path, type_name: str) -> str:
    if not type_name.startswith("sentence_transformers."):
        raise UnsupportedModel(
            f"{path} needs {type_name}, which is code from the model's repository; such code is never run"
        )
    kind = type_name.rsplit(".", 1)[-1]
    if kind not in ("Transformer", "Pooling", "Normalize"):
        raise UnsupportedModel(f"{path} has a {kind} module ({type_name}), which is not supported")
    return kind


def _refuse_remote_code(model_dir: Path, config: dict[str, Any], trusted: bool) -> None:
    classes = config.get("auto_map")
    if not classes:
        return
    if not trusted:
        raise UnsupportedModel(
            f"{model_dir}/config.json has auto_map, which needs code from the model's repository; set "
            "`trust_remote_code: true` together with a `revision` in the config if you trust that code"
        )
    elsewhere = sorted({name.partition("--")[0] for name in _strings(classes) if "--" in name})
    if elsewhere:
        raise UnsupportedModel(
            f"{model_dir}/config.json takes its code from {', '.join(elsewhere)}, which `revision` does "
            "not pin; copy that code into the model's own repository"
        )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _transformer_config(transformer: Path) -> dict[str, Any]:
    paths = [transformer / name for name in _TRANSFORMER_CONFIGS]
    path = next((path for path in paths if _optional_json(path)), paths[0])
    config = _optional_json(path)
    for setting in _UNSUPPORTED_SETTINGS:
        if config.get(setting):
            raise UnsupportedModel(f"{path} sets {setting}, which is not supported")
    task = config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise UnsupportedModel(f"{path} has transformer_task: {task}, which is not supported")
    return config


def _pooling(
    modules: _Modules, network: dict[str, Any], stated: Pooling | None
) -> tuple[Pooling, int]:
    """Returns pooling and dimension as the files say, or as the config does if they do not."""
    if modules.pooling is None:
        dimension = network.get("hidden_size")
        if stated is None or not isinstance(dimension, int):
            raise UnsupportedModel(
                f"{modules.transformer}/config.json lacks hidden_size, an integer"
            )
        return stated, dimension
    path = modules.pooling / "config.json"
    pooling, dimension = _stated_pooling(path)
    if stated not in (None, pooling):
        raise UnsupportedModel(
            f"pooling: {path} says {pooling}, so the config cannot say {stated}; remove `pooling` from "
            "the config, or correct the file"
        )
    return pooling, dimension


def _stated_pooling(path: Path) -> tuple[Pooling, int]:
    config = _json(path)
    legacy = [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)]
    found = config.get("pooling_mode", legacy or "mean")
    modes = [found] if isinstance(found, str) else list(found)
    if len(modes) != 1 or modes[0] not in _POOLING:
        known = ", ".join(sorted(_POOLING))
        raise UnsupportedModel(f"{path} sets pooling {modes}; supported is exactly one of {known}")
    if config.get("include_prompt", True) is False:
        raise UnsupportedModel(f"{path} has include_prompt: false, which is not supported")
    dimension = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if not isinstance(dimension, int):
        raise UnsupportedModel(f"{path} lacks word_embedding_dimension, an integer")
    return _POOLING[modes[0]], dimension


def _shorter(stated: list[Any], dimension: int) -> tuple[int, ...]:
    """Returns the stated dimensions that are below the model's own."""
    return tuple(sorted({n for n in stated if isinstance(n, int) and 0 < n < dimension}))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _truncate_dim(model_dir: Path) -> Any:
    """Returns the dimension to which sentence-transformers cuts vectors by default, or None."""
    return _optional_json(model_dir / "config_sentence_transformers.json").get("truncate_dim")


def _is_matryoshka_of_any_size(config: dict[str, Any]) -> bool:
    """Whether ``config.json`` says that vectors may be cut, and lists no sizes (as vLLM reads it)."""
    return config.get("is_matryoshka") is True and not config.get("matryoshka_dimensions")


def _max_tokens(transformer: Path, bert: dict[str, Any]) -> int:
    tokenizer = _optional_json(transformer / "tokenizer_config.json")
    stated = bert.get("max_seq_length") or tokenizer.get("model_max_length")
    limits = [n for n in (stated, position_limit(transformer)) if isinstance(n, int) and n > 0]
    if not limits:
        raise UnsupportedModel(
            f"{transformer} states no length limit; set the model's `max_tokens` in the config, or "
            "max_seq_length in sentence_bert_config.json"
        )
    return min(limits)


def _special_tokens(transformer: Path) -> SpecialTokens | None:
    """Returns the special tokens of ``tokenizer_config.json``, or None if ``tokenizer.json`` adds them.

    transformers 4 followed the former and 5 follows the latter, so models such as e5-mistral lose the
    end token that they were trained with (https://github.com/embeddings-benchmark/mteb/pull/5237).
    """
    config = _optional_json(transformer / "tokenizer_config.json")
    if not config.get("add_eos_token") and not config.get("add_bos_token"):
        return None
    tokenizer = load_tokenizer(transformer)
    template = template_of(tokenizer)

    def added(name: str) -> tuple[int, ...]:
        token = config.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        token_id = tokenizer.token_to_id(str(content)) if config.get(f"add_{name}_token") else None
        return () if token_id is None else (token_id,)

    special_tokens = SpecialTokens(template.first or added("bos"), template.last or added("eos"))
    return None if special_tokens == template else special_tokens


def _prompts(model_dir: Path) -> Prompts:
    config = _optional_json(model_dir / "config_sentence_transformers.json")
    prompts: dict[str, str] = config.get("prompts") or {}
    default_name = config.get("default_prompt_name") or ""
    # a default prompt applies to both roles, unless it is the prompt of one of them
    of_a_role = default_name in (*_QUERY_PROMPTS, *_DOCUMENT_PROMPTS)
    default = "" if of_a_role else prompts.get(default_name, "")

    def of(names: tuple[str, ...]) -> str:
        return next((prompts[n] for n in names if prompts.get(n) is not None), default)

    query, document = of(_QUERY_PROMPTS), of(_DOCUMENT_PROMPTS)
    instruct = _INSTRUCTION.fullmatch(query)
    if instruct is None:
        return Prompts(query=query, document=document)
    instruction = instruct["instruction"]
    template = query.replace(instruction, "{instruction}", 1)
    return Prompts("", document, template, instruction)


def _json(path: Path) -> Any:
    if not path.is_file():
        raise UnsupportedModel(f"{path} is missing; save the model with sentence-transformers")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UnsupportedModel(f"{path} is not valid JSON: {error}") from error


def _optional_json(path: Path) -> dict[str, Any]:
    content = _json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
