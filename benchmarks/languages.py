"""How well, and how fast, the language of a short text is recognised.

    python -m benchmarks.languages

The texts are Django's own messages and their translations by its contributors (BSD-3-Clause), from
its package: those of 12 to 200 characters, without markup, placeholders removed. What matters to
`auto` is whether a text is English, so that is counted apart: an English text that is taken for
another language goes to a larger model than it needs; a text in another language that is taken for
English goes to a model that cannot read it.
"""

from __future__ import annotations

import gettext
import random
import re
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from benchmarks.common.reporting import parser, report
from deployments.core.routing.languages import languages_of, preload

CODES = (
    "en de fr es it pt nl sv nb da fi pl cs hu ro tr vi id ru uk bg el he ar fa hi th ko ja zh_Hans"
).split()
TEXTS = 150
HEADER = ("LANGUAGE", "TEXTS", "CHARS", "RIGHT %", "UNSURE %", "TAKEN AS ENGLISH %", "CPU µs")
_PLACEHOLDER = re.compile(r"%\(\w+\)[\w.]+|%[sd]|\{\w*\}|[“”]")


def messages(code: str) -> list[str]:
    """Returns messages in a language, in a random order that is the same each time."""
    texts = sorted({m for m in map(_clean, _catalogue(code)) if 12 <= len(m) <= 200})
    random.Random(0).shuffle(texts)
    return texts[:TEXTS]


def _catalogue(code: str) -> Iterator[str]:
    spec = find_spec("django")
    if spec is None or spec.origin is None:
        raise SystemExit("this benchmark reads Django's translations: pip install django==5.2.19")
    english = code == "en"
    pattern = f"**/locale/{'de' if english else code}/LC_MESSAGES/django.mo"
    for path in sorted(Path(spec.origin).parent.glob(pattern)):
        with path.open("rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for key, message in catalogue.items():
            source = key[0] if isinstance(key, tuple) else key
            if english:
                yield source
            elif isinstance(message, str) and message != source:
                yield message


def _clean(text: str) -> str:
    text = text.rsplit("\x04", 1)[-1]
    return "" if "<" in text or "\n" in text else _PLACEHOLDER.sub("", text).strip()


def measure(code: str) -> tuple[object, ...]:
    """Returns one language's line of the table."""
    texts = messages(code)
    started = time.thread_time()
    answers = [languages_of([text]) for text in texts]
    micros = (time.thread_time() - started) / len(texts) * 1e6
    language = code[:2]
    right = sum(languages == {language} for languages in answers)
    unsure = sum(not languages for languages in answers)
    english = sum(languages <= {"en"} for languages in answers)
    per_cent = [f"{100 * n / len(texts):.0f}" for n in (right, unsure, english)]
    characters = sum(map(len, texts)) / len(texts)
    return (language, len(texts), f"{characters:.0f}", *per_cent, f"{micros:.0f}")


def main() -> None:
    """Prints the table."""
    parser("languages", __doc__).parse_args()
    preload()
    languages_of(["a first text that warms the detector up"])
    rows = [measure(code) for code in CODES]
    batch = messages("en")[:32] * 64
    started = time.thread_time()
    languages_of(batch)
    micros = round((time.thread_time() - started) * 1e6)
    report("languages", HEADER, rows, **{f"us_for_a_request_of_{len(batch)}_texts": micros})


if __name__ == "__main__":
    main()
