"""The documents: README, the pages of docs/, CONTRIBUTING and CHANGELOG."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
DOCUMENTS = {
    "README.md": README,
    **{f"docs/{name}": text for name, text in PAGES.items()},
    "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text(),
    "CHANGELOG.md": (ROOT / "CHANGELOG.md").read_text(),
}
OF_DEVELOPERS = ("CONTRIBUTING.md", "CHANGELOG.md")
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def code_blocks(language: str) -> list[str]:
    """Returns the fenced blocks of one language, in all documents."""
    blocks = [block for text in DOCUMENTS.values() for block in _FENCED.findall(text)]
    return [code for kind, code in blocks if kind == language]


def calls() -> list[tuple[str, str | None]]:
    """Returns each bash block with `curl` and, if the next block is JSON, that as its answer."""
    pairs = []
    for text in DOCUMENTS.values():
        for (kind, code), (next_kind, answer) in pairwise([*_FENCED.findall(text), ("", "")]):
            if kind == "bash" and "curl" in code:
                pairs.append((code, answer if next_kind == "json" else None))
    return pairs


def inline_code(text: str) -> list[str]:
    """Returns the code between single backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", _FENCED.sub("", text))


def users_blocks() -> list[str]:
    """Returns each block of commands in the README and in docs/, in their order."""
    users = {name: text for name, text in DOCUMENTS.items() if name not in OF_DEVELOPERS}
    return [
        code for text in users.values() for kind, code in _FENCED.findall(text) if kind == "bash"
    ]
