"""Encode a corpus and find near-duplicates in it, in one Ray program.

    embedfleet serve                                  # in another terminal
    python examples/ray_data_pipeline.py examples/corpus.jsonl vectors

The program joins the service's own Ray cluster. `encode_corpus` sends the texts through the running
replicas, behind live traffic, and writes Parquet; Ray Data compares the vectors. Run
it again, and only what is missing is encoded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray

from embedfleet.corpus import Run, Settings, encode_corpus

CPUS_PER_TASK = 0.5  # the replicas may hold most of a small machine


class NearDuplicates:
    """Finds the rows of a batch that resemble a row of the whole corpus.

    The whole corpus is compared with each batch, which suits up to a million rows; beyond that,
    replace `whole` by an approximate index.
    """

    def __init__(self, whole: ray.ObjectRef, threshold: float) -> None:
        self._ids, self._vectors = ray.get(whole)
        self._threshold = threshold

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the pairs of this batch, each once: columns id, near and cosine."""
        cosines = np.stack(batch["embedding"]) @ self._vectors.T  # vectors have length 1
        similar = cosines >= self._threshold
        rows, others = np.nonzero(similar & (batch["id"][:, None] < self._ids[None, :]))
        return {
            "id": batch["id"][rows],
            "near": self._ids[others],
            "cosine": cosines[rows, others],
        }


def near_duplicates(output: Path, threshold: float) -> Iterator[dict[str, Any]]:
    """Yields the pairs of documents in ``output`` whose cosine reaches the threshold."""
    table = pq.read_table(output, columns=["id", "embedding"])
    ids = np.array(table["id"].to_pylist())
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    # from memory: tasks that read would ask for a CPU each, which small machines do not have left
    pairs = ray.data.from_arrow(table).map_batches(
        NearDuplicates,
        fn_constructor_args=(ray.put((ids, vectors)), threshold),
        batch_size=1_024,
        num_cpus=CPUS_PER_TASK,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    return pairs.iter_rows()


def main() -> None:
    """Encodes what is missing, then prints the near-duplicates."""
    parser = argparse.ArgumentParser(description="Find near-duplicates in a corpus.")
    parser.add_argument("input", nargs="?", default="examples/corpus.jsonl")
    parser.add_argument("output", nargs="?", default="vectors", type=Path)
    parser.add_argument("--model", default="small")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--address", help="of the Ray cluster; default: the one on this machine")
    args = parser.parse_args()

    settings = Settings(args.input, str(args.output), args.model, id_column="id", keep=("text",))
    summary = encode_corpus(settings, Run(address=args.address))
    print(f"{summary.manifest.counts.written} vectors of {summary.manifest.identity.model}")
    ray.data.DataContext.get_current().enable_progress_bars = False
    for pair in near_duplicates(args.output, args.threshold):
        print(f"{pair['cosine']:.2f}  {pair['id']} ~ {pair['near']}")


if __name__ == "__main__":
    main()
