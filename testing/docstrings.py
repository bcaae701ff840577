"""Real English texts that every machine has: the docstrings of Python's own standard library."""

from __future__ import annotations

import ast
import sysconfig
from functools import cache
from pathlib import Path


@cache
def all_docstrings() -> tuple[str, ...]:
    """Returns every distinct docstring of the standard library, in the order of its files."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
            continue
        found.update(dict.fromkeys(_docstrings_of(path)))
    return tuple(found)


def docstrings_below(folder: Path, most: int) -> list[str]:
    """Returns up to ``most`` distinct docstrings of all Python files below a folder."""
    found: dict[str, None] = {}
    for path in sorted(folder.glob("**/*.py")):
        found.update(dict.fromkeys(_docstrings_of(path)))
        if len(found) >= most:
            break
    return list(found)[:most]


def docstrings(count: int, longest_words: int = 2_000) -> list[str]:
    """Returns ``count`` docstrings of 1 to ``longest_words`` words, from short to long evenly."""
    fitting = [d for d in all_docstrings() if 1 <= len(d.split()) <= longest_words]
    by_length = sorted(fitting, key=lambda d: (len(d.split()), d))
    step = (len(by_length) - 1) / (count - 1)
    return [by_length[round(i * step)] for i in range(count)]


def one_to_2000_words(count: int) -> list[str]:
    """Returns ``count`` texts of 1 to 2,000 words; the longest run on through several docstrings."""
    words = "\n".join(all_docstrings()[:1_000]).split()
    long = [" ".join(words[-most:]) for most in (1_000, 1_500, 2_000)]
    return [*docstrings(count - len(long)), *long]


def _docstrings_of(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [doc for node in nodes if (doc := ast.get_docstring(node))]
