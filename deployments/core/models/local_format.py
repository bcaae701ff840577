"""Reads a model's description from its own files, in sentence-transformers format.

The files: ``modules.json``, ``1_Pooling/config.json``, ``sentence_bert_config.json``,
``config_sentence_transformers.json``, ``config.json``. A setting that is not supported is refused, and
the error names it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from deployments.core.errors import UnsupportedModel
from deployments.core.models.conversion import has_safetensors
from deployments.core.models.modules import (
    Module,
    listed_modules,
    needs_prompts,
    normalizes,
    output_dimension,
    plain_pooling,
    read_json,
    read_modules,
    read_optional_json,
    route,
    transformer_of,
)
from deployments.core.models.overrides import NO_OVERRIDES, Overrides
from deployments.core.models.rerankers import activation_of, is_reranker, refuse_unsupported
from deployments.core.models.sparse_encoders import (
    FILL_MASK,
    is_sparse_encoder,
    refuse_other_task,
    vocabulary_of,
)
from deployments.core.models.sparse_encoders import refuse_unsupported as refuse_unsupported_sparse
from deployments.core.models.spec import Kind, ModelSpec, Pooling, Prompts, Role, Side

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
_RESERVED_POSITIONS = dict.fromkeys(
    (
        "camembert",
        "data2vec-text",
        "ibert",
        "longformer",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    ),
    2,
)
_RELATIVE = frozenset({"t5", "mt5", "umt5"})  # their n_positions limits nothing
_TRUNCATES_LEFT = re.compile(r'"truncation":\s*\{[^}]*"direction":\s*"Left"')
_NO_LIMIT = 10**9  # transformers writes 10^30
# a StaticEmbedding reads texts of any length; this bounds what one text may cost
_STATIC_TOKENS = 32_768
_TOKENS_OUTPUT = "token_embeddings"
_SETTINGS = frozenset({".json", ".txt", ".model", ".tiktoken"})  # vocabularies among them
_OTHER_ENGINES = frozenset({"onnx", "openvino"})
_TASKS = {
    Kind.EMBEDDER: "feature-extraction",
    Kind.RERANKER: "sequence-classification",
    Kind.SPARSE: FILL_MASK,
}


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
    if overrides.pooling is None and is_reranker(model_dir):
        return _reranker_spec(name, model_dir, revision, overrides)
    if is_sparse_encoder(model_dir):
        return _sparse_spec(name, model_dir, revision, overrides)
    modules = _modules(model_dir, overrides.pooling)
    _refuse_two_inputs(modules)
    transformer = transformer_of(modules)
    if transformer is None:
        return _static_spec(name, model_dir, revision, modules)
    config = read_json(transformer / "config.json")
    _refuse_remote_code(transformer, config, overrides.trust_remote_code)
    _refuse_adapter(transformer)
    bert = transformer_settings(transformer)
    max_tokens = overrides.max_tokens or _max_tokens(transformer, config, bert)
    _refuse_changing_attention(transformer, config, max_tokens)
    stated, dimension = _pooling(modules, config, overrides.pooling)
    return ModelSpec(
        name=name,
        repo=str(model_dir.absolute()),
        revision=revision or content_hash(model_dir),
        backbone=str(config.get("model_type", "unknown")),
        pooling=stated,
        dimension=dimension,
        max_tokens=max_tokens,
        prompts=_prompts(model_dir),
        normalize=normalizes(modules),
        lowercase=bool(bert.get("do_lower_case", False)),
        truncatable_dimensions=_shorter(
            [*_list(config.get("matryoshka_dimensions")), _truncate_dim(model_dir)], dimension
        ),
        truncatable_from=1 if _is_matryoshka_of_any_size(config) else None,
        default_dimension=next(iter(_shorter([_truncate_dim(model_dir)], dimension)), None),
        truncation_side=_truncation_side(transformer, bert),
        needs_prompts=needs_prompts(modules),
    )


def _refuse_two_inputs(modules: Sequence[Module]) -> None:
    """Raises UnsupportedModel if queries and documents are read by two modules, which may differ in
    their tokenizers, limits and prompts.
    """
    query, document = (route(modules, role)[0] for role in Role)
    if query != document:
        raise UnsupportedModel(
            f"{modules[0].folder} reads queries with another {query.kind} than documents, which is not "
            "supported; serve the two as models of one space (`spaces` in the config)"
        )


def _reranker_spec(
    name: str, model_dir: Path, revision: str | None, overrides: Overrides
) -> ModelSpec:
    has_modules = (model_dir / "modules.json").is_file()
    modules = read_modules(model_dir) if has_modules else (Module("Transformer", model_dir),)
    transformer = modules[0].folder
    config = read_json(transformer / "config.json")
    refuse_unsupported(model_dir, modules, config)
    _refuse_remote_code(transformer, config, overrides.trust_remote_code)
    _refuse_adapter(transformer)
    settings = transformer_settings(transformer, Kind.RERANKER)
    return ModelSpec(
        name=name,
        repo=str(model_dir.absolute()),
        revision=revision or content_hash(model_dir),
        backbone=str(config.get("model_type", "unknown")),
        pooling=None,
        dimension=1,
        max_tokens=overrides.max_tokens or _max_tokens(transformer, config, settings),
        kind=Kind.RERANKER,
        activation=activation_of(model_dir, config),
        needs_prompts=True,
        normalize=False,
        lowercase=bool(settings.get("do_lower_case", False)),
        truncation_side=_truncation_side(transformer, settings),
    )


def _sparse_spec(
    name: str, model_dir: Path, revision: str | None, overrides: Overrides
) -> ModelSpec:
    modules = listed_modules(model_dir)
    refuse_unsupported_sparse(model_dir, modules)
    transformer = modules[0].folder
    config = read_json(transformer / "config.json")
    _refuse_remote_code(transformer, config, overrides.trust_remote_code)
    _refuse_adapter(transformer)
    settings = transformer_settings(transformer, Kind.SPARSE)
    refuse_other_task(modules[0], settings)
    max_tokens = overrides.max_tokens or _max_tokens(transformer, config, settings)
    _refuse_changing_attention(transformer, config, max_tokens)
    return ModelSpec(
        name=name,
        repo=str(model_dir.absolute()),
        revision=revision or content_hash(model_dir),
        backbone=str(config.get("model_type", "unknown")),
        pooling=None,
        dimension=vocabulary_of(transformer),
        max_tokens=max_tokens,
        kind=Kind.SPARSE,
        prompts=_prompts(model_dir),
        normalize=False,
        lowercase=bool(settings.get("do_lower_case", False)),
        truncation_side=_truncation_side(transformer, settings),
    )


def _modules(model_dir: Path, pooling: Pooling | None) -> tuple[Module, ...]:
    """Returns the model's modules: a transformer alone if the config, not the files, says how to pool."""
    path = model_dir / "modules.json"
    if path.is_file():
        return read_modules(model_dir)
    if pooling is None:
        raise UnsupportedModel(
            f"{path} is missing, so nothing says how {model_dir} pools; set the model's `pooling` "
            "(and `normalize`) in the config, or save it with sentence-transformers"
        )
    return (Module("Transformer", model_dir),)


def _pooling(
    modules: Sequence[Module], config: dict[str, Any], stated: Pooling | None
) -> tuple[Pooling | None, int]:
    """Returns pooling and dimension as the files say, or as the config does if they do not."""
    hidden = config.get("hidden_size")
    if len(modules) > 1 or modules[0].kind != "Transformer":
        pooling = plain_pooling(modules)
        if stated not in (None, pooling):
            raise UnsupportedModel(
                f"pooling: {modules[0].folder} says {pooling or 'otherwise'}, so the config cannot say "
                f"{stated}; remove `pooling` from the config, or correct the files"
            )
        return pooling, output_dimension(modules)
    if not isinstance(hidden, int):
        raise UnsupportedModel(f"{modules[0].folder}/config.json lacks hidden_size, an integer")
    if stated is None and _makes_tokens(modules[0].folder):
        output_dimension(modules)  # raises, since nothing pools
    return stated, hidden


def _makes_tokens(transformer: Path) -> bool:
    output = transformer_settings(transformer).get("module_output_name", _TOKENS_OUTPUT)
    return bool(output == _TOKENS_OUTPUT)


def _static_spec(
    name: str, model_dir: Path, revision: str | None, modules: Sequence[Module]
) -> ModelSpec:
    # sentence-transformers leaves the truncation of this tokenizer on
    first = route(modules, Role.DOCUMENT)[0]
    truncation = read_json(first.folder / "tokenizer.json").get("truncation") or {}
    return ModelSpec(
        name=name,
        repo=str(model_dir.absolute()),
        revision=revision or content_hash(model_dir),
        backbone="static",
        pooling=None,
        dimension=output_dimension(modules),
        max_tokens=min(_STATIC_TOKENS, truncation.get("max_length") or _STATIC_TOKENS),
        prompts=_prompts(model_dir),
        normalize=normalizes(modules),
        needs_prompts=needs_prompts(modules),
        truncatable_dimensions=_shorter([_truncate_dim(model_dir)], output_dimension(modules)),
        default_dimension=next(
            iter(_shorter([_truncate_dim(model_dir)], output_dimension(modules))), None
        ),
    )


def content_hash(model_dir: Path) -> str:
    """Returns the SHA-256 over the names and contents of a model's files (40 hex digits).

    The files are those that can change a vector: settings, vocabularies and weights.
    """
    # folders often hold the same weights in the older format too
    weights = {".safetensors"} if has_safetensors(model_dir) else {".safetensors", ".bin"}
    return _hash_of(model_dir, _SETTINGS | weights)


def settings_hash(model_dir: Path) -> str:
    """Returns the same hash without the weights, which a process that only tokenizes may not have."""
    return _hash_of(model_dir, _SETTINGS)


def _hash_of(model_dir: Path, suffixes: Collection[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(model_dir.rglob("*")):
        relative = path.relative_to(model_dir)
        if path.suffix in suffixes and path.is_file() and not _is_foreign(relative):
            digest.update(str(relative).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:40]


def _is_foreign(path: Path) -> bool:
    """Whether this file is of version control, or of another engine's copy of the weights."""
    return any(part.startswith(".") or part in _OTHER_ENGINES for part in path.parts[:-1])


def _refuse_remote_code(transformer: Path, config: dict[str, Any], trusted: bool) -> None:
    classes = config.get("auto_map")
    if not classes:
        return
    if not trusted:
        if _is_native(str(config.get("model_type"))):  # transformers' own class is used instead
            return
        raise UnsupportedModel(
            f"{transformer}/config.json has auto_map, which needs code from the model's repository; set "
            "`trust_remote_code: true` together with a `revision` in the config if you trust that code"
        )
    elsewhere = sorted({name.partition("--")[0] for name in _strings(classes) if "--" in name})
    if elsewhere:
        raise UnsupportedModel(
            f"{transformer}/config.json takes its code from {', '.join(elsewhere)}, which `revision` "
            "does not pin; copy that code into the model's own repository"
        )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _is_native(model_type: str) -> bool:
    """Whether transformers has this kind of model itself, as it prefers; without importing it."""
    package = importlib.util.find_spec("transformers")
    folders = (package.submodule_search_locations if package else None) or []
    names = (Path(folder) / "models" / model_type.replace("-", "_") for folder in folders)
    return any(name.is_dir() for name in names)


def _refuse_adapter(transformer: Path) -> None:
    path = transformer / "adapter_config.json"
    if path.is_file():
        raise UnsupportedModel(
            f"{path} makes the model a LoRA adapter, which is not supported; merge it into the weights "
            "(peft's `merge_and_unload`) and save the model again"
        )


def _refuse_changing_attention(transformer: Path, config: dict[str, Any], max_tokens: int) -> None:
    """Raises UnsupportedModel for a BigBird that is sparse on long texts.

    transformers gives up sparse attention for good at the first text that is too short for it, so a long
    text's vector depends on what was encoded before.
    """
    if config.get("model_type") != "big_bird":
        return
    # with transformers' defaults
    is_sparse = config.get("attention_type", "block_sparse") == "block_sparse"
    blocks = 5 + 2 * config.get("num_random_blocks", 3)
    if is_sparse and max_tokens > blocks * config.get("block_size", 64):
        raise UnsupportedModel(
            f"{transformer}/config.json has attention_type: block_sparse, with which a long text's "
            "vector depends on the texts before it; set attention_type to original_full there, or a "
            f"`max_tokens` of at most {blocks * config.get('block_size', 64)} in the config"
        )


def transformer_settings(transformer: Path, kind: Kind = Kind.EMBEDDER) -> dict[str, Any]:
    """Returns the settings of a Transformer module (``sentence_bert_config.json``).

    Raises UnsupportedModel for a setting that cannot be honoured.
    """
    paths = [transformer / name for name in _TRANSFORMER_CONFIGS]
    path = next((path for path in paths if read_optional_json(path)), paths[0])
    config = read_optional_json(path)
    for setting in _UNSUPPORTED_SETTINGS:
        if config.get(setting):
            raise UnsupportedModel(f"{path} sets {setting}, which is not supported")
    task = config.get("transformer_task", _TASKS[kind])
    if task != _TASKS[kind]:
        raise UnsupportedModel(f"{path} has transformer_task: {task}, which is not supported")
    if "message" in (config.get("modality_config") or {}):
        raise UnsupportedModel(
            f"{path} has a modality_config with `message`, so texts go through the chat template, which "
            "is not supported; remove `message` there if the model was trained on plain texts"
        )
    return config


def _shorter(stated: list[Any], dimension: int) -> tuple[int, ...]:
    """Returns the stated dimensions that are below the model's own."""
    return tuple(sorted({n for n in stated if isinstance(n, int) and 0 < n < dimension}))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _truncate_dim(model_dir: Path) -> Any:
    """Returns the dimension to which sentence-transformers cuts vectors by default, or None."""
    return read_optional_json(model_dir / "config_sentence_transformers.json").get("truncate_dim")


def _is_matryoshka_of_any_size(config: dict[str, Any]) -> bool:
    """Whether ``config.json`` says that vectors may be cut, and lists no sizes (as vLLM reads it)."""
    return config.get("is_matryoshka") is True and not config.get("matryoshka_dimensions")


def _max_tokens(transformer: Path, config: dict[str, Any], bert: dict[str, Any]) -> int:
    tokenizer = read_optional_json(transformer / "tokenizer_config.json").get("model_max_length")
    # in this order, as in sentence-transformers
    stated = tokenizer_arguments(bert).get(
        "model_max_length", bert.get("max_seq_length") or tokenizer
    )
    candidates = [stated, _positions(config)]
    limits = [n for n in candidates if isinstance(n, int) and 0 < n < _NO_LIMIT]
    if not limits:
        raise UnsupportedModel(
            f"{transformer} states no length limit; set the model's `max_tokens` in the config, or "
            "max_seq_length in sentence_bert_config.json"
        )
    return min(limits)


def _truncation_side(transformer: Path, bert: dict[str, Any]) -> Side:
    tokenizer = read_optional_json(transformer / "tokenizer_config.json")
    stated = {**tokenizer, **tokenizer_arguments(bert)}.get("truncation_side")
    cuts_left = stated == "left" or (stated is None and _file_truncates_left(transformer))
    return Side.LEFT if cuts_left else Side.RIGHT


def _file_truncates_left(transformer: Path) -> bool:
    """Whether tokenizer.json does, which begins with its truncation; the vocabulary is not read."""
    try:
        with (transformer / "tokenizer.json").open() as file:
            return _TRUNCATES_LEFT.search(file.read(1_000)) is not None
    except (OSError, UnicodeDecodeError):
        return False


def tokenizer_arguments(bert: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments that ``sentence_bert_config.json`` has for the tokenizer."""
    found = bert.get("tokenizer_args") or bert.get("processor_kwargs") or {}
    return {key: value for key, value in found.items() if key != "trust_remote_code"}


def position_limit(model_dir: Path) -> int | None:
    """Returns the most tokens that the network has positions for, if ``config.json`` states them."""
    modules = read_modules(model_dir) if (model_dir / "modules.json").is_file() else ()
    transformer = transformer_of(modules) if modules else model_dir
    return (
        None if transformer is None else _positions(read_optional_json(transformer / "config.json"))
    )


def _positions(config: dict[str, Any]) -> int | None:
    kind = str(config.get("model_type"))
    nested = config.get("text_config")
    places = [config, *([nested] if isinstance(nested, dict) else [])]
    names = ("max_position_embeddings", *(() if kind in _RELATIVE else ("n_positions",)))
    numbers = [place.get(name) for place in places for name in names]
    positions = next((n for n in numbers if isinstance(n, int) and n > 0), None)
    return None if positions is None else positions - _RESERVED_POSITIONS.get(kind, 0)


def _prompts(model_dir: Path) -> Prompts:
    config = read_optional_json(model_dir / "config_sentence_transformers.json")
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
