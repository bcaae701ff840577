"""Bodies that cost a service much and their sender nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

BYTES = 7_500_000


class Attack(NamedTuple):
    """A route, a body, and the statuses that are right answers to it."""

    path: str
    body: bytes
    statuses: tuple[int, ...] = (400,)


def _json(**fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def _list(item: bytes) -> bytes:
    return b",".join([item] * (BYTES // (len(item) + 1)))


def attacks(model: str) -> Mapping[str, Callable[[], Attack]]:
    """Returns what makes each body; all at once take a hundred megabytes."""
    name = model.encode()
    marks = "e" + "\u0301\u0327\u0323" * 20_000
    return {
        "one long text": lambda: Attack(
            "/v1/embeddings", _json(model=model, input="plain English words " * (BYTES // 20))
        ),
        "one long text that is cut": lambda: Attack(
            "/v1/embeddings",
            _json(model=model, truncate=True, input="plain English words " * (BYTES // 20)),
            (200,),
        ),
        "one long Chinese text": lambda: Attack(
            "/v1/embeddings", _json(model=model, input="南瓜的家常做法" * (BYTES // 21))
        ),
        "punctuation": lambda: Attack(
            "/v1/embeddings", _json(model=model, input=".,;!" * (BYTES // 4))
        ),
        "texts that are cut": lambda: Attack(
            "/v1/embeddings",
            _json(model=model, truncate=True, input=["plain words " * 600] * 1_000),
            (200, 429, 504),
        ),
        "combining marks": lambda: Attack(
            "/v1/route", _json(model="auto", truncate=True, input=[marks] * 40), (200, 400)
        ),
        "lists of one id": lambda: Attack(
            "/v1/embeddings", b'{"tokenizer":"%s","input":[%s]}' % (name, _list(b"[1]"))
        ),
        "ids": lambda: Attack(
            "/v1/embeddings", b'{"tokenizer":"%s","input":[%s]}' % (name, _list(b"1"))
        ),
        "documents": lambda: Attack(
            "/v1/rerank", b'{"query":"a","documents":[%s]}' % _list(b'{"text":"a"}')
        ),
        "a long name": lambda: Attack(
            "/v1/embeddings", b'{"input":"a","%s":1}' % (b"x" * BYTES), (200, 413)
        ),
        "many names": lambda: Attack(
            "/v1/embeddings",
            b'{"input":"a",%s}' % b",".join(b'"%d":1' % n for n in range(BYTES // 11)),
        ),
        "escapes": lambda: Attack(
            "/v1/embeddings", b'{"input":"%s"}' % (b"\\u5357" * (BYTES // 6))
        ),
    }
