"""What users read: the README, the pages in docs/, CONTRIBUTING and CHANGELOG."""

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
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def code_blocks(language: str) -> list[str]:
    """Returns the fenced blocks of one language, in all documents."""
    found = [block for text in DOCUMENTS.values() for block in _FENCED.findall(text)]
    return [code for kind, code in found if kind == language]


def calls_with_answers() -> list[tuple[str, str]]:
    """Returns each bash block with the JSON block that follows it as its answer."""
    pairs = []
    for text in DOCUMENTS.values():
        blocks = _FENCED.findall(text)
        for (kind, code), (next_kind, answer) in pairwise(blocks):
            if (kind, next_kind) == ("bash", "json"):
                pairs.append((code, answer))
    return pairs


def inline_code(text: str) -> list[str]:
    """Returns what stands between backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", _FENCED.sub("", text))
