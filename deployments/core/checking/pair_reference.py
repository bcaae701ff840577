"""What sentence-transformers makes of pairs: the token ids and logits that a reranker's have to equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from deployments.core.checking.reference import Expected, explained
from deployments.core.models.loading import ModelFiles
from deployments.core.models.pairs import joined
from deployments.core.models.spec import Role


class PairReference:
    """sentence-transformers' CrossEncoder over a model's files, with the limit that the config states."""

    def __init__(self, files: ModelFiles, device: torch.device, dtype: torch.dtype) -> None:
        """Loads the weights in ``dtype``. Raises as `Reference`."""
        with explained(files.folder):
            self._model = CrossEncoder(
                str(files.folder),
                device=str(device),
                local_files_only=True,
                trust_remote_code=files.spec.trust_remote_code,
                model_kwargs={"dtype": dtype},
            )
        self._model.eval()
        self._spec = files.spec
        first: Any = self._model[0]
        self._tokenizer = first.processor
        self._tokenizer.model_max_length = files.spec.max_tokens
        self._tokenizer.truncation_side = files.spec.truncation_side.value
        self._modality = "message" if "message" in first.modality_config else "text"

    @torch.inference_mode()
    def expected(self, query: str, texts: Sequence[str], rows: Sequence[int]) -> Expected:
        """Returns the ids of all pairs with this query, and the logits of those in ``rows``."""
        features = [self._features(query, text) for text in texts]
        ids = [[int(number) for number in each["input_ids"].flatten()] for each in features]
        # where there are no token types, it does not matter where the second text starts
        splits = [
            int((each["token_type_ids"] == 0).sum()) if "token_type_ids" in each else 0
            for each in features
        ]
        logits = np.array([self._logit(features[row]) for row in rows], np.float32)
        return Expected(Role.DOCUMENT, texts, ids, rows, logits.reshape(-1, 1), query, splits)

    def _logit(self, features: dict[str, Any]) -> float:
        placed = {
            name: value.to(self._model.device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        return float(self._model(placed)["scores"].flatten()[0])

    def _features(self, query: str, text: str) -> dict[str, Any]:
        question = self._spec.question
        if question is None:
            return dict(self._model.preprocess([(query, text)]))
        # as the card of Qwen3-Reranker does it, which is more than its files say
        before, after = (
            self._tokenizer.encode(part, add_special_tokens=False)
            for part in (question.before, question.after)
        )
        [rendered] = joined(self._spec, query, [text])
        room = self._spec.max_tokens - len(before) - len(after)
        content = self._tokenizer.encode(
            rendered, truncation=True, max_length=room, add_special_tokens=False
        )
        ids = torch.tensor([[*before, *content, *after]])
        mask = torch.ones_like(ids)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "modality": self._modality,
            "logits_to_keep": 1,
        }
