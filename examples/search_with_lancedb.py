"""Encode a corpus with `embedfleet encode`, load it into LanceDB, and search it with OpenAI's client.

    pip install lancedb openai
    embedfleet serve                                  # in another terminal
    embedfleet encode examples/corpus.jsonl vectors --model small --id-column id --keep text
    python examples/search_with_lancedb.py "Why does dough rise?"

Queries are pinned to the embedding space in which the corpus was encoded, so they can never be
compared with vectors of another model.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import lancedb
import pyarrow.parquet as pq
from openai import OpenAI


def load(vectors: Path, store: Path) -> tuple[lancedb.table.Table, str]:
    """Copies the output of `embedfleet encode` into a LanceDB table; returns it and its space."""
    rows = pq.read_table(vectors)  # columns: id, text, embedding
    space = json.loads(rows.schema.metadata[b"embedfleet"])["space_id"]
    table = lancedb.connect(store).create_table("documents", rows, mode="overwrite")
    return table, space


def embed_query(client: OpenAI, model: str, space: str, text: str) -> list[float]:
    """Embeds a text in the role of a query; answers with 409 if the model has another space."""
    response = client.embeddings.create(
        model=model, input=text, extra_body={"input_type": "query", "space": space}
    )
    return response.data[0].embedding


def main() -> None:
    """Prints the best documents for each query."""
    parser = argparse.ArgumentParser(description="Search a corpus with LanceDB.")
    parser.add_argument("queries", nargs="*", default=["Why does dough rise?"], metavar="QUERY")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="small", help="what the corpus was encoded with")
    parser.add_argument("--vectors", type=Path, default=Path("vectors"))
    parser.add_argument("--store", type=Path, default=Path("store"))
    args = parser.parse_args()

    api_key = os.environ.get("EMBEDFLEET_API_KEY", "none")
    client = OpenAI(base_url=f"{args.url}/v1", api_key=api_key)
    table, space = load(args.vectors, args.store)
    print(f"{table.count_rows()} documents in space {space}")
    for query in args.queries:
        vector = embed_query(client, args.model, space, query)
        search = table.search(vector, vector_column_name="embedding").distance_type("cosine")
        print(f"\n{query}")
        for hit in search.limit(3).to_list():
            print(f"  {1 - hit['_distance']:.2f}  {hit['id']}: {hit['text']}")


if __name__ == "__main__":
    main()
