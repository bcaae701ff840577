"""A retriever that stays in one embedding space, whatever models the service runs.

    pip install openai
    embedfleet serve                                  # in another terminal
    python examples/rag_retriever.py "Which city is the French capital?"

`auto` chooses a model once, when the documents are embedded. The index keeps the embedding space of
the answer, and every query asks for that space. The service then answers from it, or with 409 if no
model answers in it any more; it never answers with vectors that do not compare.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from openai import ConflictError, OpenAI


@dataclass(frozen=True)
class Retriever:
    """Documents and their vectors ``(documents, dimension)``, all in one embedding space."""

    client: OpenAI
    documents: Sequence[str]
    vectors: np.ndarray
    space: str

    @classmethod
    def index(cls, client: OpenAI, documents: Sequence[str], model: str = "auto") -> Retriever:
        """Embeds the documents; with `auto`, the service chooses the model."""
        response = client.embeddings.create(model=f"{model}-document", input=list(documents))
        vectors = np.array([item.embedding for item in response.data], np.float32)
        return cls(client, documents, vectors, response.space)  # `space` is embedfleet's own field

    @classmethod
    def load(cls, client: OpenAI, file: Path) -> Retriever:
        """Reads an index that `save` has written."""
        with np.load(file) as saved:
            return cls(client, saved["documents"].tolist(), saved["vectors"], str(saved["space"]))

    def save(self, file: Path) -> None:
        """Writes documents, vectors and their space."""
        np.savez(file, documents=self.documents, vectors=self.vectors, space=self.space)

    def retrieve(self, query: str, count: int = 3) -> list[tuple[float, str]]:
        """Returns cosines and documents, best first. Raises ConflictError if the space is gone."""
        response = self.client.embeddings.create(
            model="auto-query", input=query, extra_body={"space": self.space}
        )
        cosines = self.vectors @ np.array(response.data[0].embedding, np.float32)
        best = np.argsort(-cosines)[:count]
        return [(float(cosines[i]), self.documents[i]) for i in best]


def main() -> None:
    """Builds or loads the index, prints the best documents, and shows what a lost space looks like."""
    parser = argparse.ArgumentParser(description="Retrieve documents for a question.")
    parser.add_argument("query", nargs="?", default="Which city is the French capital?")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--corpus", type=Path, default=Path(__file__).with_name("corpus.jsonl"))
    parser.add_argument("--index", type=Path, default=Path("index.npz"))
    parser.add_argument("--model", default="auto", help="for a new index: name, size or auto")
    args = parser.parse_args()

    api_key = os.environ.get("EMBEDFLEET_API_KEY", "none")
    client = OpenAI(base_url=f"{args.url}/v1", api_key=api_key)
    documents = [json.loads(line)["text"] for line in args.corpus.read_text().splitlines()]
    if not args.index.exists():
        Retriever.index(client, documents, args.model).save(args.index)
    retriever = Retriever.load(client, args.index)

    print(f"{len(retriever.documents)} documents in space {retriever.space}")
    for cosine, document in retriever.retrieve(args.query):
        print(f"  {cosine:.2f}  {document}")

    # the same index, had its model been replaced since: refused, so embed the documents again
    outdated = replace(retriever, space="of-a-replaced-model")
    try:
        outdated.retrieve(args.query)
    except ConflictError as error:
        print(f"409 {error.code}: the documents are embedded again")
        current = Retriever.index(client, documents)
        print(f"now in space {current.space}: {current.retrieve(args.query)[0][1]}")


if __name__ == "__main__":
    main()
