"""The general path: a model's own modules on padded token ids, for whatever the fast path cannot run.

Slower than the fast path, since padding is computed too, but right by construction:
sentence-transformers runs the model as it was saved.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from torch import nn

from deployments.core.batch import AnyVectors, TokenBatch, Vectors, concatenated, placed
from deployments.core.engine.backbones import scales_with_length
from deployments.core.engine.cpu.linear import Packing, Target, UnsupportedPrecision, pack_linears
from deployments.core.engine.device_errors import is_out_of_memory, reason_of
from deployments.core.engine.layout import to_device
from deployments.core.engine.modules import Features, Modules, load_modules, load_reranker
from deployments.core.engine.pretrained import positions_of
from deployments.core.engine.warmup import sample
from deployments.core.errors import EmbedfleetError, UnsupportedModel
from deployments.core.models.spec import Kind, ModelSpec, Role
from deployments.core.sparse import SparseVectors

log = logging.getLogger(__name__)
# a text's vector alone and beside a longer one; batches also differ by rounding
_AGREES = {torch.float32: 0.99999}
_AGREES_IN_HALF = 0.999
# logits of pairs and weights of tokens, as a part of the largest one
_NUMBERS_AGREE = {torch.float32: 1e-4}
_NUMBERS_AGREE_IN_HALF = 0.05
_SHORT, _LONG = (5, 8, 13), 64  # tokens
_ROLES = tuple(Role)
_DOCUMENT = _ROLES.index(Role.DOCUMENT)


class GeneralNetwork:
    """Runs a model's modules; returns what they give, without a final Normalize.

    Those of a reranker are a cross-encoder's, and a text is a pair. The second number of
    `TokenBatch.prompts` is then how many tokens stand before the second text.
    """

    def __init__(self, modules: Modules, target: Target, kind: Kind = Kind.EMBEDDER) -> None:
        """Raises UnsupportedModel if the model reads its texts in a way of its own."""
        scores = kind is Kind.RERANKER
        self._output = "scores" if scores else "sentence_embedding"
        self._is_sparse = kind is Kind.SPARSE
        self._device, self.computes_in = target.device, target.computes_in
        self.slow_at_first = target.slow_at_first
        self._modules = modules
        self._inputs = {role: _input_of(modules.steps[0], role, scores) for role in _ROLES}
        if target.packing:
            _pack(modules, target.packing)
        nn.Module.to(modules, target.device)
        inner = list(modules.modules())
        self._by_role = any(isinstance(module, Router) or _takes_task(module) for module in inner)
        self._by_prompt = any(
            isinstance(module, Pooling) and not module.include_prompt for module in inner
        )
        self._by_length = any(each.scales_with_length for each in self._inputs.values())
        self.backbone = self._inputs[Role.DOCUMENT].backbone
        self.positions = min(each.positions for each in self._inputs.values())
        self.vocabulary = min(each.vocabulary for each in self._inputs.values())

    @property
    def wants_prompts(self) -> bool:
        """Whether a text's vector depends on its role or on where its prompt or first text ends."""
        return self._by_role or self._by_prompt or any(i.types_pairs for i in self._inputs.values())

    @property
    def pads(self) -> bool:
        """Whether a pass costs longest × rows, or the sum of its tokens."""
        return not self._by_length and any(each.pads for each in self._inputs.values())

    def rounded(self, tokens: int) -> int:
        """Returns how many tokens a pass of ``tokens`` computes."""
        return tokens

    def never_pad(self) -> None:
        """From now on, only texts of equal length share a pass, for models that padding changes."""
        self._by_length = True

    def __call__(self, batch: TokenBatch) -> AnyVectors:
        """Runs one pass; returns float32 ``(texts, dimension)``, sparse if the model is."""
        groups = self._groups(batch)
        if len(groups) == 1:
            return self._run(batch)
        return placed([(rows, self._run(batch.select(rows))) for rows in groups], len(batch))

    def _groups(self, batch: TokenBatch) -> list[list[int]]:
        """Returns rows that may share a call of the modules: these take one role and one prompt."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row in range(len(batch)):
            role, prompt = _prompt_of(batch, row)
            key = (role * self._by_role, prompt * self._by_prompt)
            length = int(batch.lengths[row]) * self._by_length
            groups[*key, length].append(row)
        return list(groups.values())

    def _run(self, batch: TokenBatch) -> AnyVectors:
        number, prompt = _prompt_of(batch, 0)
        role = _ROLES[number]
        features = self._inputs[role].features(batch)
        features = {name: _on(self._device, value) for name, value in features.items()}
        features["task"] = role.value
        if self._by_prompt and prompt:
            features["prompt_length"] = prompt
        vectors = self._modules(features)[self._output].float()
        if self._is_sparse:
            return _entries(vectors)
        found: Vectors = vectors.cpu().numpy()
        return found


class _Input(Protocol):
    """What a model's first module takes."""

    backbone: str
    vocabulary: int
    positions: float
    pads: bool
    scales_with_length: bool  # positions depend on the longest text of a pass
    types_pairs: bool  # the second text of a pair has another token type

    def features(self, batch: TokenBatch) -> Features:
        """Returns the features of a pass."""
        ...


class _PaddedInput:
    """Padded ids with a mask: what a Transformer takes.

    Padding stands on the right, since attention, positions and pooling follow the mask. Causal
    rerankers need it on the left: they read only the last place.
    """

    pads = True

    def __init__(self, module: Transformer, pairs: bool) -> None:
        self._reads_last = module.transformer_task in ("text-generation", "any-to-any")
        self.backbone = str(module.config.model_type)
        self.positions = positions_of(module.model)
        self.scales_with_length = scales_with_length(module.config)
        embeddings = module.model.get_input_embeddings()
        known = getattr(embeddings, "num_embeddings", None)
        self.vocabulary = int(known or module.config.get_text_config().vocab_size)
        tokenizer = module.tokenizer
        pad_id = getattr(tokenizer, "pad_token_id", None)
        if pad_id is None:
            pad_id = getattr(module.config, "pad_token_id", None)
        self._pad_id = min(int(pad_id or 0), self.vocabulary - 1)
        self._types = _TokenTypes.of(tokenizer, pairs)
        self.types_pairs = pairs and self._types is not None
        # sentence-transformers prefers messages, where a model knows them
        self._modality = "message" if "message" in module.modality_config else "text"

    def features(self, batch: TokenBatch) -> Features:
        """Returns the features of a pass."""
        ids, mask = batch.padded(self._pad_id)
        features: Features = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        if self._types is not None:
            features["token_type_ids"] = self._types.padded(batch, mask)
        if self._reads_last:
            features = {name: _to_the_right(array, mask) for name, array in features.items()}
            features["logits_to_keep"] = 1
        return {**features, "modality": self._modality}


class _BagInput:
    """Ids back to back, and where each text starts: what a StaticEmbedding takes."""

    pads = scales_with_length = types_pairs = False

    def __init__(self, module: StaticEmbedding) -> None:
        self.backbone, self.positions = "static", math.inf
        self.vocabulary = int(module.num_embeddings)

    def features(self, batch: TokenBatch) -> Features:
        """Returns the features of a pass."""
        return {"input_ids": batch.ids.astype(np.int64), "offsets": batch.offsets[:-1]}


class _TokenTypes:
    """The token type ids of texts: those of the first and last tokens, and of all others.

    ``second`` is the type of all tokens of the second text of a pair.
    """

    def __init__(
        self, first: list[int], content: int, last: list[int], second: int | None = None
    ) -> None:
        self._first, self._content, self._last, self._second = first, content, last, second

    @classmethod
    def of(cls, tokenizer: Any, pairs: bool) -> _TokenTypes | None:
        """Returns the types that a tokenizer gives to texts or pairs, or None if it gives none."""
        if "token_type_ids" not in getattr(tokenizer, "model_input_names", ()):
            return None
        if pairs:
            types = tokenizer("a a a", "a a a")["token_type_ids"]
            if types != sorted(types):
                raise UnsupportedModel("the tokenizer gives pairs token types in no order")
            return cls([], types[0], [], types[-1])
        types = tokenizer("a a a a a a a a")["token_type_ids"]
        content = types[len(types) // 2]
        start = next(i for i, kind in enumerate(types) if kind == content)
        stop = len(types) - next(i for i, kind in enumerate(reversed(types)) if kind == content)
        return cls(types[:start], content, types[stop:])

    def padded(self, batch: TokenBatch, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Returns the types of texts padded on the right, of the shape of ``mask``."""
        types = np.where(mask, self._content, 0).astype(np.int64)
        if self._second is not None and batch.prompts is not None:
            second = mask & (np.arange(mask.shape[1]) >= batch.prompts[:, 1:])
            return np.where(second, self._second, types)
        for row, length in enumerate(mask.sum(axis=1)):
            types[row, : len(self._first)] = self._first
            types[row, length - len(self._last) : length] = self._last
        return types


def _to_the_right(
    array: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Returns rows padded on the right as rows padded on the left."""
    missing = mask.shape[1] - mask.sum(axis=1)
    places = (np.arange(mask.shape[1]) - missing[:, None]) % mask.shape[1]
    return np.take_along_axis(array, places, axis=1)


def _input_of(first: nn.Module, role: Role, pairs: bool) -> _Input:
    if isinstance(first, Router):
        route: Any = first._resolve_route(task=role.value, modality="text")
        routes: Any = first.sub_modules
        return _input_of(routes[route][0], role, pairs)
    if isinstance(first, StaticEmbedding):
        return _BagInput(first)
    if not isinstance(first, Transformer):
        raise UnsupportedModel(
            f"the model's first module is {type(first).__name__}, which reads texts, not token ids; "
            "Transformer and StaticEmbedding are supported"
        )
    if first.query_expansion is not None:
        raise UnsupportedModel("the model sets query_expansion, which is not supported")
    return _PaddedInput(first, pairs)


def _takes_task(module: nn.Module) -> bool:
    return "task" in getattr(module, "forward_kwargs", ())


def _entries(vectors: torch.Tensor) -> SparseVectors:
    """Returns what is not zero, found where it was computed: the rest need not leave the device."""
    rows, columns = torch.nonzero(vectors, as_tuple=True)
    lengths = torch.bincount(rows, minlength=len(vectors))
    return SparseVectors(
        columns.cpu().numpy().astype(np.uint32),
        vectors[rows, columns].cpu().numpy(),
        lengths.cpu().numpy().astype(np.int32),
        vectors.shape[1],
    )


def _prompt_of(batch: TokenBatch, row: int) -> tuple[int, int]:
    """Returns a text's role and prompt length; a document without a prompt if the batch has none."""
    if batch.prompts is None:
        return _DOCUMENT, 0
    role, prompt = batch.prompts[row].tolist()
    return role, prompt


def _on(device: torch.device, value: Any) -> Any:
    return to_device(value, device) if isinstance(value, np.ndarray) else value


def _pack(modules: Modules, packing: Packing) -> None:
    for module in modules.modules():
        if isinstance(module, Transformer):
            pack_linears(module.model, packing)


def load_general(
    spec: ModelSpec,
    folder: Path,
    target: Target,
    trust_remote_code: bool = False,
) -> GeneralNetwork:
    """Loads a model's modules and tries them.

    Raises UnsupportedPrecision if they cannot be computed in the target's, else as `load_modules`.
    """
    is_reranker = spec.kind is Kind.RERANKER
    load = partial(load_reranker, folder) if is_reranker else partial(load_modules, spec, folder)
    load = partial(load, trust_remote_code=trust_remote_code)
    try:
        return _tried(GeneralNetwork(load(target.loads or torch.float32), target, spec.kind), spec)
    except UnsupportedPrecision as reason:
        if target.packing is None or target.dtype is torch.float16:
            raise
        # some models look at the weights of their layers
        log.info("%s keeps its plain linear layers: %s", spec.name, reason.message)
    plain = replace(target, packing=None)
    return _tried(GeneralNetwork(load(target.dtype), plain, spec.kind), spec)


@torch.inference_mode()
def _tried(network: GeneralNetwork, spec: ModelSpec) -> GeneralNetwork:
    """Returns the network, which pads from now on only if that changes no vector.

    Raises UnsupportedPrecision, or UnsupportedModel if it fails in float32 too.
    """
    lengths = [min(n, spec.max_tokens) for n in (*_SHORT, _LONG)]
    batch = TokenBatch.concatenate([sample(network, 1, n) for n in lengths])
    try:
        together = network(batch)
        alone = concatenated([network(batch.slice(row, row + 1)) for row in range(len(batch))])
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, EmbedfleetError):
            raise
        raise _failure(network, error) from error
    if network.pads and not _agree(together, alone, spec.kind, network.computes_in):
        log.info(
            "%s: padding changes its vectors, so only texts of equal length share a pass", spec.name
        )
        network.never_pad()
    return network


def _failure(network: GeneralNetwork, error: Exception) -> UnsupportedModel:
    reason = f"{type(error).__name__}: {reason_of(error)}"
    if network.computes_in is torch.float32:
        return UnsupportedModel(f"sentence-transformers cannot run the model: {reason}")
    name = str(network.computes_in).removeprefix("torch.")
    return UnsupportedPrecision(
        f"sentence-transformers cannot run the model in {name}; set the model's `dtype` to float32 "
        f"({reason})"
    )


def _agree(one: AnyVectors, other: AnyVectors, kind: Kind, dtype: torch.dtype) -> bool:
    a, b = (v.dense() if isinstance(v, SparseVectors) else v for v in (one, other))
    if kind is not Kind.EMBEDDER:
        most = _NUMBERS_AGREE.get(dtype, _NUMBERS_AGREE_IN_HALF)
        return bool(np.abs(a - b).max() <= most * max(1.0, float(np.abs(b).max())))
    return _worst_cosine(a, b) >= _AGREES.get(dtype, _AGREES_IN_HALF)


def _worst_cosine(a: Vectors, b: Vectors) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-12)).min())
