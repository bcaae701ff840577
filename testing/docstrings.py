"""English texts that every machine has: the docstrings of Python's standard library."""

from __future__ import annotations

import ast
import sysconfig
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def all_docstrings() -> tuple[str, ...]:
    """Returns every distinct docstring of the standard library, in the order of its files."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py"))
    without = {"site-packages", "test", "tests", "idlelib"}
    texts = (text for file in files if not without & set(file.parts) for text in _texts_of(file))
    return tuple(dict.fromkeys(texts))


def docstrings_below(folder: Path, most: int) -> list[str]:
    """Returns up to ``most`` distinct docstrings of all Python files below a folder."""
    texts: dict[str, None] = {}
    for file in sorted(folder.glob("**/*.py")):
        texts.update(dict.fromkeys(_texts_of(file)))
        if len(texts) >= most:
            break
    return list(texts)[:most]


def docstrings(count: int, longest_words: int = 2_000) -> list[str]:
    """Returns ``count`` docstrings of 1 to ``longest_words`` words, spread evenly from short to long."""
    fitting = [d for d in all_docstrings() if 1 <= len(d.split()) <= longest_words]
    by_length = sorted(fitting, key=lambda d: (len(d.split()), d))
    step = (len(by_length) - 1) / (count - 1)
    return [by_length[round(i * step)] for i in range(count)]


def one_to_2000_words(count: int) -> list[str]:
    """Returns ``count`` texts of 1 to 2,000 words; the longest are several docstrings joined."""
    words = "\n".join(all_docstrings()[:1_000]).split()
    long = [" ".join(words[-most:]) for most in (1_000, 1_500, 2_000)]
    return [*docstrings(count - len(long)), *long]


def _texts_of(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in _statements(tree) if isinstance(node, kinds)]
    texts = (ast.get_docstring(node) or "" for node in nodes)
    return [text for text in texts if text and not text.isspace()]


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yields what `ast.walk` does, but for expressions, in which no docstring can stand."""
    waiting: deque[ast.AST] = deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            below = getattr(node, field, ())
            if isinstance(below, list):  # the body of a lambda is an expression
                waiting.extend(below)
