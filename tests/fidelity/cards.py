"""The recipes of the model cards, written out with plain transformers and torch, in float32.

Sources: the cards of intfloat/e5-small-v2, intfloat/multilingual-e5-large-instruct,
intfloat/e5-mistral-7b-instruct and Linq-AI-Research/Linq-Embed-Mistral.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, BatchEncoding

Array = npt.NDArray[np.float32]
Card = Callable[[Path, Sequence[str], int, str], Array]


def average_pool(last_hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    last_hidden = last_hidden_states.masked_fill(~attention_mask[..., None].bool(), 0.0)
    return last_hidden.sum(dim=1) / attention_mask.sum(dim=1)[..., None]


def last_token_pool(last_hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    left_padding = attention_mask[:, -1].sum() == attention_mask.shape[0]
    if left_padding:
        return last_hidden_states[:, -1]
    sequence_lengths = attention_mask.sum(dim=1) - 1
    rows = torch.arange(last_hidden_states.shape[0])
    return last_hidden_states[rows, sequence_lengths]


def get_detailed_instruct(task_description: str, query: str) -> str:
    return f"Instruct: {task_description}\nQuery: {query}"


def e5_card(folder: Path, texts: Sequence[str], max_length: int, padding_side: str) -> Array:
    """The card of the E5 models that average; ``texts`` carry their prompts."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=padding_side)
    batch = tokenizer(
        list(texts), max_length=max_length, padding=True, truncation=True, return_tensors="pt"
    )
    return _vectors(folder, batch, average_pool)


def mistral_card(folder: Path, texts: Sequence[str], max_length: int, padding_side: str) -> Array:
    """The card of e5-mistral and Linq; ``texts`` carry their prompts.

    The cards leave `</s>` to the tokenizer, which transformers 5 no longer adds. So this is the
    card's first version, which reserved its place, cut, and appended it.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=padding_side)
    cut = tokenizer(
        list(texts),
        max_length=max_length - 1,
        return_attention_mask=False,
        padding=False,
        truncation=True,
    )
    ids = [[*row, tokenizer.eos_token_id] for row in cut["input_ids"]]
    batch = tokenizer.pad(
        {"input_ids": ids}, padding=True, return_attention_mask=True, return_tensors="pt"
    )
    return _vectors(folder, batch, last_token_pool)


@torch.no_grad()
def _vectors(folder: Path, batch: BatchEncoding, pool: Callable[[Tensor, Tensor], Tensor]) -> Array:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    outputs = model(**batch)
    embeddings = pool(outputs.last_hidden_state, batch["attention_mask"])
    actual: Array = F.normalize(embeddings, p=2, dim=1).numpy()
    return actual


CARDS: dict[str, Card] = {
    "e5-small": e5_card,
    "e5-small-v2": e5_card,
    "multilingual-e5-large-instruct": e5_card,
    "e5-mistral-7b-instruct": mistral_card,
    "linq-embed-mistral": mistral_card,
}
