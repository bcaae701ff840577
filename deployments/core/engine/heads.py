"""The fast path's rerankers: what a sequence classifier adds to a backbone, and its token types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deployments.core.engine.pooling import cls, last_token, mean
from deployments.core.errors import UnsupportedModel

# pooled states float32 (texts, dimension) -> logits (texts, labels)
Head = Callable[[Tensor], Tensor]
# token states (tokens, dimension) and int64 lengths (texts,) -> logits float32 (texts, labels)
Scorer = Callable[[Tensor, Tensor], Tensor]


def _pooler_and_linear(classifier: Any) -> Head:
    pooler, linear = classifier.base_model.pooler.float(), classifier.classifier.float()
    classifier.base_model.pooler = None  # or every pass would compute it for a text of all tokens
    # heads take the first token of padded texts
    return lambda first: linear(pooler(first[:, None]))


def _head_with_dense(classifier: Any) -> Head:
    head = classifier.classifier.float()
    return lambda first: head(first[:, None])


def _prediction_head(classifier: Any) -> Head:
    head, linear = classifier.head.float(), classifier.classifier.float()
    return lambda pooled: linear(head(pooled))


def _two_linears(classifier: Any) -> Head:
    inner, linear = classifier.pre_classifier.float(), classifier.classifier.float()
    return lambda first: linear(torch.relu(inner(first)))


HEADS: dict[str, Callable[[Any], Head]] = {
    "bert": _pooler_and_linear,
    "gte": _pooler_and_linear,
    "roberta": _head_with_dense,
    "xlm-roberta": _head_with_dense,
    "camembert": _head_with_dense,
    "mpnet": _head_with_dense,
    "modernbert": _prediction_head,
    "distilbert": _two_linears,
}


def scorer_of(classifier: PreTrainedModel, answers: tuple[int, int] | None = None) -> Scorer:
    """Returns what makes logits of token states, in float32. Takes the pooler out of the backbone.

    With ``answers``, the ids of yes and no, the model is a causal one, and its logit the difference of
    theirs.
    """
    if answers is not None:
        return _answer(classifier, *answers)
    head = HEADS[classifier.config.model_type](classifier)
    pool = mean if getattr(classifier.config, "classifier_pooling", "cls") == "mean" else cls
    return lambda hidden, lengths: head(pool(hidden, lengths))


@torch.inference_mode()
def _answer(model: Any, yes: int, no: int) -> Scorer:
    words = model.get_output_embeddings().weight
    direction = words[yes].float() - words[no].float()
    return lambda hidden, lengths: (last_token(hidden, lengths) @ direction)[:, None]


def has_token_types(backbone: Any) -> bool:
    """Whether the backbone adds a vector for a token's type; others are told types, and ignore them."""
    types = getattr(backbone.embeddings, "token_type_embeddings", None)
    return isinstance(types, nn.Embedding)


@torch.inference_mode()
def bake_token_types(backbone: Any, second: int) -> None:
    """Gives each word a second row in its table, for texts of token type ``second``.

    What a backbone adds for a token's type becomes part of its word, so an id with the vocabulary's size
    added is that word of the second type. Raises UnsupportedModel if the backbone lacks the type.
    """
    embeddings = backbone.embeddings
    words, types = embeddings.word_embeddings, embeddings.token_type_embeddings
    if second >= types.num_embeddings:
        raise UnsupportedModel(
            f"the tokenizer gives second texts the token type {second}, but the model has only "
            f"{types.num_embeddings}"
        )
    both = torch.cat([words.weight + types.weight[0], words.weight + types.weight[second]])
    embeddings.word_embeddings = nn.Embedding(both.shape[0], both.shape[1], _weight=both)
    types.weight.zero_()
