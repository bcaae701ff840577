"""Scores pairs with Infinity's engine, run by Infinity's own Python as a child of a benchmark.

    python infinity_rerank.py FOLDER DTYPE

Each line of standard input is JSON with a ``query`` and ``documents``. Each is answered by a line of JSON
with the ``seconds`` that it took and the ``logits``, in the order of the documents.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from typing import Any


async def score(engine: Any, query: str, documents: list[str]) -> dict[str, Any]:
    """Returns the answer to one line."""
    started = time.perf_counter()
    ranked, _ = await engine.rerank(query=query, docs=documents, raw_scores=True)
    seconds = time.perf_counter() - started
    by_row = sorted(ranked, key=lambda item: item.index)
    return {"seconds": seconds, "logits": [float(item.relevance_score) for item in by_row]}


async def main(folder: str, dtype: str) -> None:
    """Answers lines until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print, too
    infinity: Any = importlib.import_module("infinity_emb")
    arguments = infinity.EngineArgs(
        model_name_or_path=folder,
        engine="torch",
        dtype=dtype,
        device="cpu",
        bettertransformer=False,
        model_warmup=False,
    )
    engine = infinity.AsyncEmbeddingEngine.from_args(arguments)
    async with engine:
        while line := await asyncio.to_thread(sys.stdin.readline):
            answer = await score(engine, **json.loads(line))
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
