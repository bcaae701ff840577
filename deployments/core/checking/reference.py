"""What sentence-transformers makes of a model: the token ids and vectors that ours have to equal.

Loads the whole model, and imports torch and sentence-transformers; only replicas and `embedfleet check`
import this file. Nothing here uses our own tokenizing or pooling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from deployments.core.batch import Vectors
from deployments.core.engine.device_errors import is_out_of_memory, reason_of
from deployments.core.errors import EmbedfleetError, ModelUnavailable, UnsupportedModel
from deployments.core.models import spec as specs
from deployments.core.models.description import (
    flagged_special_tokens,
    load_tokenizer,
    reads_as_in_file,
)
from deployments.core.models.loading import ModelFiles
from deployments.core.models.local_format import tokenizer_arguments, transformer_settings
from deployments.core.models.modules import read_optional_json
from deployments.core.models.prompts import prefix
from deployments.core.models.spec import Kind, ModelSpec, Role, SpecialTokens

_MODES: dict[specs.Pooling, Any] = {
    specs.Pooling.MEAN: "mean",
    specs.Pooling.CLS: "cls",
    specs.Pooling.LAST_TOKEN: "lasttoken",
}


_QUERY, _DOCUMENT = ("query",), ("document", "passage", "corpus")


@dataclass(frozen=True)
class Expected:
    """Texts of one role: the ids that each has to become, and the vectors of those in ``rows``.

    With a ``query`` they are the ids and logits of its pairs with the texts, of which ``splits`` are the
    tokens before each text.
    """

    role: Role
    texts: Sequence[str]
    ids: Sequence[Sequence[int]]
    rows: Sequence[int]
    vectors: Vectors
    query: str | None = None
    splits: Sequence[int] = ()


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns what sentence-transformers raises as it loads into an error that names the folder."""
    try:
        with _explained(f"load {folder}"):
            yield
    except OSError as error:
        raise ModelUnavailable(f"the files in {folder} cannot be loaded: {error}") from error


class Reference:
    """sentence-transformers' own pipeline over a model's files.

    What a model card or the config states beyond the files holds here too: prompts, limits, and special
    tokens that transformers 5 drops.
    """

    def __init__(self, files: ModelFiles, device: torch.device, dtype: torch.dtype) -> None:
        """Loads the weights in ``dtype``.

        Raises UnsupportedModel if sentence-transformers cannot, ModelUnavailable if files are damaged.
        """
        config = read_optional_json(files.folder / "config_sentence_transformers.json")
        self._stated: dict[str, str] = config.get("prompts") or {}
        self._spec, self._is_own = files.spec, files.described_by_files
        self._special = files.spec.special_tokens
        with explained(files.folder):
            self._model = _load(files, device, dtype)
        self._model.eval()
        self._input: Any = _input_of(self._model[0])
        self._configure(files)

    def _configure(self, files: ModelFiles) -> None:
        module = self._input
        if not isinstance(module, Transformer):
            return
        folder = Path(module.processor.name_or_path)
        if self._special is None:
            self._special = flagged_special_tokens(folder, module.processor.backend_tokenizer)
        if reads_as_in_file(folder):
            arguments = tokenizer_arguments(transformer_settings(folder, files.spec.kind))
            limit = module.processor.model_max_length
            module.processor = load_tokenizer(folder, arguments)
            module.processor.model_max_length = limit
        if not self._is_own:
            module.processor.model_max_length = files.spec.max_tokens
            module.processor.truncation_side = files.spec.truncation_side.value

    @torch.inference_mode()
    def expected(self, texts: Sequence[str], role: Role, rows: Sequence[int]) -> Expected:
        """Returns the ids of all ``texts``, and the vectors of those in ``rows``, each computed alone.

        Raises UnsupportedModel if sentence-transformers cannot run the model.
        """
        with _explained(f"run {self._spec.name}"):
            ids = [self._ids(text, role) for text in texts]
            vectors = [self._vector(texts[row], role, ids[row]) for row in rows]
        return Expected(role, texts, ids, rows, np.stack(vectors).astype(np.float32))

    def _features(self, text: str, role: Role) -> dict[str, Any]:
        prompt = self._prompt(role)
        return dict(self._model.preprocess([text], prompt=prompt, task=role.value))

    def _prompt(self, role: Role) -> str:
        """Returns the prompt of `encode_query` or `encode_document`, or the one of the card or config.

        In sentence-transformers 6 the latter takes an empty prompt where a model calls its prompt
        `passage` or `corpus`, and neither takes the default prompt. Such models were trained with them.
        """
        if not self._is_own:
            return prefix(self._spec, role)
        names = _QUERY if role is Role.QUERY else _DOCUMENT
        default = self._model.default_prompt_name
        fallback = () if default in (*_QUERY, *_DOCUMENT) else (default,)
        stated = (self._stated.get(name or "") for name in (*names, *fallback))
        return next((prompt for prompt in stated if prompt is not None), "")

    def _ids(self, text: str, role: Role) -> list[int]:
        if self._special is not None:
            return self._framed(text, role, self._special)
        return [int(number) for number in self._features(text, role)["input_ids"].flatten()]

    def _framed(self, text: str, role: Role, special: SpecialTokens) -> list[int]:
        """Returns the ids between other special tokens than those of sentence-transformers."""
        tokenizer, rendered = self._input.processor, self._prompt(role) + text
        content = list(tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])
        room = tokenizer.model_max_length - len(special.first) - len(special.last)
        left = tokenizer.truncation_side == "left"
        kept = content[max(0, len(content) - room) :] if left else content[:room]
        return [*special.first, *kept, *special.last]

    def _vector(self, text: str, role: Role, ids: Sequence[int]) -> Vectors:
        features = self._features(text, role)
        if self._special is not None:
            features["input_ids"] = torch.tensor([list(ids)])
            features["attention_mask"] = torch.ones_like(features["input_ids"])
            features.pop("token_type_ids", None)
        placed = {
            name: value.to(self._model.device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        vectors = self._model(placed, task=role.value)["sentence_embedding"]
        vector: Vectors = vectors[0].float().cpu().numpy()
        return vector


@contextmanager
def _explained(attempt: str) -> Iterator[None]:
    """Turns what any of a hundred classes may raise into the refusal of a model."""
    try:
        yield
    except (OSError, EmbedfleetError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UnsupportedModel(
            f"sentence-transformers cannot {attempt}: {type(error).__name__}: {reason_of(error)}"
        ) from error


def _input_of(first: Any) -> Any:
    """Returns the module that reads texts; a Router's routes have it in common (`read_spec`)."""
    if not isinstance(first, Router):
        return first
    route: Any = first._resolve_route(task=Role.DOCUMENT.value, modality="text")
    routes: Any = first.sub_modules
    return _input_of(routes[route][0])


def _load(
    files: ModelFiles, device: torch.device, dtype: torch.dtype
) -> SentenceTransformer | SparseEncoder:
    settings: dict[str, Any] = {
        "device": str(device),
        "local_files_only": True,
        "trust_remote_code": files.spec.trust_remote_code,
        "model_kwargs": {"dtype": dtype},
    }
    if files.spec.kind is Kind.SPARSE:
        return SparseEncoder(str(files.folder), **settings)
    if (files.folder / "modules.json").is_file():
        return SentenceTransformer(str(files.folder), **settings)
    transformer = Transformer.load(str(files.folder), local_files_only=True, **_model(settings))
    return SentenceTransformer(modules=[transformer, _pooling(files.spec, transformer)], **settings)


def _model(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ("trust_remote_code", "model_kwargs")}


def _pooling(spec: ModelSpec, transformer: Transformer) -> Pooling:
    assert spec.pooling is not None  # the catalog or the config states it, as the files do not
    pooling: Pooling = Pooling(transformer.get_embedding_dimension(), _MODES[spec.pooling])
    return pooling
