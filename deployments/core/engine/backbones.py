"""Which models may take the fast path: their attention is known, so texts need no padding.

`FAST` is the table of backbones. `why_not_fast` says what else in a model's files keeps it off the fast
path; any other model takes the general path, where sentence-transformers' own modules run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from deployments.core.engine.heads import HEADS
from deployments.core.models.modules import (
    Module,
    listed_modules,
    pooling_of,
    pools_prompt,
    read_optional_json,
)
from deployments.core.models.spec import Kind, ModelSpec

# these scale their frequencies by the longest text of a pass, so neighbours would change a vector
_ROPE_BY_LENGTH = frozenset({"dynamic", "longrope"})
# what these modules compute for a text does not depend on how it is padded
_TAIL = frozenset({"Pooling", "Dense", "LayerNorm", "Normalize", "Dropout"})
# what a Transformer module reads of transformers' answer, and what it calls that
_OUTPUTS = {
    Kind.EMBEDDER: ("last_hidden_state", "token_embeddings"),
    Kind.RERANKER: ("logits", "scores"),
}
# settings of sentence-transformers' Transformer module that change what it computes
_CHANGES_MODEL = ("model_args", "model_kwargs", "config_args", "config_kwargs")


@dataclass(frozen=True)
class Backbone:
    """How a backbone places tokens.

    ``counts_from_padding``: positions start after the padding id, and padding ids inside a text do not
    count (RoBERTa). ``causal``: a token attends to those before it, unless the config says otherwise.
    ``relative_bias``: attention adds a bias by distance, which no fused kernel takes.
    """

    causal: bool = False
    counts_from_padding: bool = False
    relative_bias: bool = False


FAST = {
    "bert": Backbone(),
    "roberta": Backbone(counts_from_padding=True),
    "xlm-roberta": Backbone(counts_from_padding=True),
    "camembert": Backbone(counts_from_padding=True),
    "distilbert": Backbone(),
    "mpnet": Backbone(counts_from_padding=True, relative_bias=True),
    "modernbert": Backbone(),
    "nomic_bert": Backbone(),
    "gte": Backbone(),
    "gemma3_text": Backbone(causal=True),
    "mistral": Backbone(causal=True),
    "llama": Backbone(causal=True),
    "qwen2": Backbone(causal=True),
    "qwen3": Backbone(causal=True),
}


def is_causal(config: PreTrainedConfig) -> bool:
    """Whether the tokens of this model attend only to those before them."""
    backbone = FAST[config.model_type]
    both_ways = getattr(config, "use_bidirectional_attention", False)
    return backbone.causal and not both_ways and getattr(config, "is_causal", None) is not False


def why_not_fast(spec: ModelSpec, folder: Path) -> str | None:
    """Returns why the model in ``folder`` cannot take the fast path, or None if it can."""
    if spec.trust_remote_code:
        return "it may run code of its own repository (trust_remote_code)"
    modules = listed_modules(folder)
    transformer = modules[0].folder
    if problem := _module_problem(modules, spec.kind):
        return problem
    if (transformer / "adapter_config.json").is_file():
        return "it has a LoRA adapter"
    if not any(transformer.glob("*.safetensors")):
        return "its weights are not safetensors"
    try:
        config = AutoConfig.from_pretrained(transformer, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        return f"transformers cannot read its config.json: {error}"
    return _config_problem(spec, config)


def is_plain(folder: Path) -> bool:
    """Whether the model only pools, in a way that `ModelSpec.pooling` can name, and normalises."""
    _, *tail = listed_modules(folder)
    if [module.kind for module in tail] not in ([], ["Pooling"], ["Pooling", "Normalize"]):
        return False
    return not tail or pooling_of(tail[0]) is not None


def _module_problem(modules: Sequence[Module], kind: Kind) -> str | None:
    first, *tail = modules
    for module in modules:
        if not module.is_own or module.kind not in (_TAIL if module in tail else {"Transformer"}):
            return f"it has a {module.kind} module"
    if any(module.kind == "Pooling" and not pools_prompt(module) for module in tail):
        return "it does not pool its prompt (include_prompt: false)"
    return _transformer_problem(first.folder, kind)


def _transformer_problem(transformer: Path, kind: Kind) -> str | None:
    output, feature = _OUTPUTS[kind]
    for path in sorted(transformer.glob("sentence_*_config.json")):
        config = read_optional_json(path)
        if changed := [name for name in _CHANGES_MODEL if config.get(name)]:
            return f"{path.name} sets {changed[0]}"
        if config.get("module_output_name", feature) != feature:
            return f"{path.name} sets module_output_name"
        for modality in (config.get("modality_config") or {}).values():
            if modality.get("method_output_name") != output:
                return f"{path.name} reads another output than {output}"
    return None


def _config_problem(spec: ModelSpec, config: PreTrainedConfig) -> str | None:
    backbone = FAST.get(config.model_type)
    if backbone is None:
        return f"the attention of {config.model_type} is not known"
    is_classifier = spec.kind is Kind.RERANKER and spec.question is None
    if is_classifier and config.model_type not in HEADS:
        return f"the classifier of {config.model_type} is not known"
    problems = {
        "it is a decoder (is_decoder)": not backbone.causal
        and getattr(config, "is_decoder", False),
        "its activation is not gelu": backbone.relative_bias and config.hidden_act != "gelu",
        "its positions are relative (position_embedding_type)": getattr(
            config, "position_embedding_type", "absolute"
        )
        not in ("absolute", "rope"),
        "its positions depend on the longest text of a pass (rope_parameters)": scales_with_length(
            config
        ),
        "it attends both ways within a window (is_causal, sliding_window)": _slides_both_ways(
            spec, config
        ),
    }
    return next((problem for problem, holds in problems.items() if holds), None)


def _slides_both_ways(spec: ModelSpec, config: PreTrainedConfig) -> bool:
    """Whether ``is_causal: false`` opens a window, of which transformers' masks and layers disagree."""
    window = getattr(config, "sliding_window", None)
    opened = FAST[config.model_type].causal and getattr(config, "is_causal", None) is False
    return bool(opened and window and window < spec.max_tokens)


def scales_with_length(config: PreTrainedConfig) -> bool:
    """Whether a token's position depends on the longest text of a pass."""
    return bool(_rope_types(config) & _ROPE_BY_LENGTH)


def _rope_types(config: PreTrainedConfig) -> set[str]:
    """Returns the kinds of rotary positions: one, or one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict):
        return set()
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(each.get("rope_type", "default")) for each in nested or [parameters]}
