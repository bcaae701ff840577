"""Example bodies of each route for the OpenAPI description, as the bundled model answers them."""

from __future__ import annotations

from typing import Any

_TEXT = "What is the capital of France?"
_DOCUMENTS = ["Tokyo is the capital of Japan.", "Paris is the capital of France."]
_PROVENANCE = {"model": "all-MiniLM-L6-v2", "space": "8552991f4674", "instruction": None}


def _page_of(item: dict[str, Any]) -> dict[str, Any]:
    ends = {"first_id": item["id"], "last_id": item["id"]}
    return {"object": "list", "data": [item], "has_more": False, **ends}


# the request that is filled in first comes first
EMBEDDINGS: dict[str, Any] = {
    "one text": {"model": "small", "input": _TEXT},
    "documents": {"model": "small", "input": _DOCUMENTS, "input_type": "document"},
    "a query, by whichever model suits it": {
        "model": "auto",
        "input": _TEXT,
        "input_type": "query",
    },
    "one byte a dimension, as base64": {
        "model": "small",
        "input": _TEXT,
        "output_dtype": "int8",
        "encoding_format": "base64",
    },
    "a long text, cut at the model's limit": {
        "model": "small",
        "input": "A long text.",
        "truncate": True,
    },
}
EMBEDDINGS_ANSWER: dict[str, Any] = {
    "object": "list",
    **_PROVENANCE,
    "usage": {"prompt_tokens": 9, "total_tokens": 9},
    "truncated": [],
    "data": [{"object": "embedding", "index": 0, "embedding": [0.0816, 0.0360, -0.0035]}],
}
ROUTE: dict[str, Any] = {"`auto`": {"model": "auto", "input": _TEXT}}
ROUTE_ANSWER: dict[str, Any] = {
    "object": "route",
    "model": "all-MiniLM-L6-v2",
    "space": "8552991f4674",
    "reason": "auto: balanced",
    "role": "document",
    "failover": [],
    "languages": ["en"],
    "candidates": [
        {
            "model": "all-MiniLM-L6-v2",
            "size": "small",
            "state": "ready",
            "space": "8552991f4674",
            "expected_ms": 7.2,
            "passed_over": None,
        }
    ],
}
SIMILARITY: dict[str, Any] = {
    "one query": {"model": "small", "query": _TEXT, "documents": _DOCUMENTS},
    "several queries": {
        "model": "small",
        "query": [_TEXT, "What is the capital of Japan?"],
        "documents": _DOCUMENTS,
    },
}
SIMILARITY_ANSWER: dict[str, Any] = {
    "object": "similarity",
    **_PROVENANCE,
    "usage": {"prompt_tokens": 27, "total_tokens": 27},
    "truncated": {"query": [], "documents": []},
    "scores": [[0.2, 0.85]],
}
RERANK: dict[str, Any] = {
    "the best document": {
        "model": "small",
        "query": _TEXT,
        "documents": _DOCUMENTS,
        "top_n": 1,
        "return_documents": True,
    },
    "all documents": {"model": "small", "query": _TEXT, "documents": _DOCUMENTS},
}
RERANK_ANSWER: dict[str, Any] = {
    "object": "rerank",
    **_PROVENANCE,
    "method": "cosine",
    "prefilter": None,
    "usage": {"prompt_tokens": 27, "total_tokens": 27},
    "truncated": {"query": [], "documents": []},
    "results": [{"index": 1, "relevance_score": 0.85, "document": {"text": _DOCUMENTS[1]}}],
}
MODEL_ANSWER: dict[str, Any] = {
    "id": "all-MiniLM-L6-v2",
    "object": "model",
    "created": 0,
    "kind": "embedder",
    "owned_by": "sentence-transformers",
    "hugging_face_id": "sentence-transformers/all-MiniLM-L6-v2",
    "state": "ready",
    "reason": None,
    "replicas": 1,
    "size": "small",
    "dimension": 384,
    "dimensions": [384],
    "max_tokens": 256,
    "languages": ["en"],
    "space_id": "8552991f4674",
    "licence": "apache-2.0",
    "default_instruction": None,
    "trust_remote_code": False,
    "notices": [],
    "device": "cpu",
    "dtype": "bfloat16",
    "tokens_per_s": 21000,
    "waiting_tokens": 0,
    "network": "fast",
    "why_general": None,
    "compared_with": "sentence-transformers 6.2.0",
    "token_budget": 1024,
    "streams": 2,
    "gpu_ids": [],
    "memory_mib": None,
    "shared_space": None,
}
MODELS_ANSWER: dict[str, Any] = {"object": "list", "data": [MODEL_ANSWER], "spaces": []}
USAGE_ANSWER: dict[str, Any] = {
    "object": "usage",
    "tenant": "search",
    "since": 1764489600,
    "routers": 2,
    "complete": True,
    "data": [{"model": "all-MiniLM-L6-v2", "requests": 42, "tokens": 1290, "refusals": 0}],
}
HEALTH_ANSWER: dict[str, Any] = {"status": "ok"}
READY_ANSWER: dict[str, Any] = {
    "status": "ready",
    "reason": None,
    "models": {"all-MiniLM-L6-v2": "ready"},
}
METRICS_ANSWER = """\
# TYPE embedfleet_requests_total counter
embedfleet_requests_total{route="/v1/embeddings",status="200"} 42
"""

FILE: dict[str, Any] = {
    "id": "file-019ac0de5a10123456789abcdef0123456789",
    "object": "file",
    "bytes": 120,
    "created_at": 1764489600,
    "expires_at": 1767081600,
    "filename": "in.jsonl",
    "purpose": "batch",
    "status": "processed",
}
FILES = _page_of(FILE)
DELETED_FILE = {"id": FILE["id"], "object": "file", "deleted": True}
FILE_CONTENT = (
    '{"custom_id": "fr", "method": "POST", "url": "/v1/embeddings", "body": {"input": "A text."}}\n'
)
BATCHES = {
    "a batch": {
        "input_file_id": FILE["id"],
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
    }
}
BATCH: dict[str, Any] = {
    "id": "batch_019ac0de5a20123456789abcdef0123456789",
    "object": "batch",
    "endpoint": "/v1/embeddings",
    "errors": None,
    "input_file_id": FILE["id"],
    "completion_window": "24h",
    "status": "validating",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1764489600,
    "expires_at": 1764576000,
    **dict.fromkeys(
        (
            "in_progress_at",
            "finalizing_at",
            "completed_at",
            "failed_at",
            "expired_at",
            "cancelling_at",
            "cancelled_at",
        )
    ),
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "metadata": None,
}
BATCH_LIST = _page_of(BATCH)
