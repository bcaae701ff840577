"""Which languages some texts are surely written in; nothing here starts Ray or reads the network.

Most scripts tell the language by themselves. Latin, Cyrillic, Arabic and Devanagari letters go on
to py3langid, a naive Bayes detector whose model comes in its package.

Short and mixed texts must not flip a service from model to model, so English is what a Latin text
is taken for until the odds against it are high, and a foreign word in a text does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

T = TypeVar("T")

_LOOKED_AT = 32  # texts of a request, spread evenly over it
_DETECTED = 8  # of those, how many the detector sees: a script costs 5 µs, the detector 40
_CHARACTERS = 300
_LETTERS = 12  # fewer in Latin letters are too few to tell
_ODDS = 10.0  # against English; benchmarks/languages.py shows what this costs and gains
_SHARE = 0.3  # of a text's letters that a script needs, to be what the text is written in

# one of these letters carries as much as two or three of an alphabet
_DENSE = {"ko", "ja", "zh"}
_SCRIPTS = {
    "latin": "A-Za-zÀ-ÖØ-öø-ʯḀ-ỿ",
    "ko": "가-힣ᄀ-ᇿ",
    "ja": "ぁ-ゟ゠-ヿ",
    "zh": "一-鿿㐀-䶿",
    "cyrillic": "Ѐ-ӿ",
    "arabic": "؀-ۿݐ-ݿ",
    "devanagari": "ऀ-ॿ",
    "el": "Ͱ-Ͽἀ-῿",
    "he": "֐-׿",
    "th": "฀-๿",
    "hy": "԰-֏",
    "ka": "ა-ჿ",
    "bn": "ঀ-৿",
    "pa": "਀-੿",
    "gu": "઀-૿",
    "or": "଀-୿",
    "ta": "஀-௿",
    "te": "ఀ-౿",
    "kn": "ಀ-೿",
    "ml": "ഀ-ൿ",
    "si": "඀-෿",
    "lo": "຀-໿",
    "my": "က-႟",
    "km": "ក-៿",
    "am": "ሀ-፿",
}
_LETTERS_OF = {script: re.compile(f"[{ranges}]") for script, ranges in _SCRIPTS.items()}
# of scripts with several languages: those that are told apart, the commonest first
_WRITTEN_IN = {
    "cyrillic": ("ru", "uk", "be", "bg", "sr", "mk", "kk", "ky", "mn", "tg", "tt", "ba"),
    "arabic": ("ar", "fa", "ur", "ps", "ug"),
    "devanagari": ("hi", "mr", "ne", "sa"),
}
# what is not worth telling from the rest: dialects, and codes that models do not use
_KNOWN = frozenset(
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he "
    "hi hr hu hy id is it ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl nn no "
    "om or pa pl ps pt ro ru sa si sk sl so sq sr sv sw ta te tg th tl tr tt ug uk ur uz vi xh zh "
    "ba".split()
)
# names of one language: models list either
_SAME = {"no": "nb", "nn": "nb", "jw": "jv", "iw": "he", "in": "id", "fil": "tl"}


def languages_of(texts: Sequence[str]) -> frozenset[str]:
    """Returns the ISO 639-1 codes that some of ``texts`` are surely written in.

    Looks at the scripts of 32 texts at most and asks the detector about 8 of them, evenly spread,
    by the first 300 characters of each. A text too short or too mixed to tell adds nothing.
    """
    looked_at = _spread(texts, _LOOKED_AT)
    detected = set(_spread(range(len(looked_at)), _DETECTED))
    found: set[str] = set()
    for row, text in enumerate(looked_at):
        found.update(_languages(text[:_CHARACTERS], row in detected))
    return frozenset(found)


def normalized(codes: Iterable[str]) -> frozenset[str]:
    """Returns language codes by the names that `languages_of` uses: ``no`` and ``nn`` are ``nb``."""
    return frozenset(_SAME.get(code, code) for code in codes)


def preload() -> None:
    """Reads the detector's model, which takes most of a second; later calls are quick."""
    _detector()


def _spread(items: Sequence[T], most: int) -> Sequence[T]:
    """Returns at most so many items, evenly spread, the first among them."""
    return items[:: max(1, -(-len(items) // most))]


def _languages(text: str, detect: bool) -> Iterable[str]:
    if text.isascii():
        return _by_letters(text, ("latin",)) if detect else ()
    weights = _weights(text)
    total = sum(weights.values())
    major = [script for script, weight in weights.items() if weight >= _SHARE * total > 0]
    foreign = [script for script in major if script != "latin"]
    if not foreign:
        return _by_letters(text, ("latin",)) if detect else ()
    if "ja" in weights and weights["ja"] >= 0.1 * total:
        foreign = ["ja", *(script for script in foreign if script not in ("ja", "zh"))]
    single = [script for script in foreign if script not in _WRITTEN_IN]
    shared = [script for script in foreign if script in _WRITTEN_IN]
    return [*single, *(_by_letters(text, shared) if shared and detect else ())]


def _weights(text: str) -> dict[str, float]:
    """How much of a text stands in each script, in letters of an alphabet."""
    counts = {script: len(letters.findall(text)) for script, letters in _LETTERS_OF.items()}
    return {s: n * (2.5 if s in _DENSE else 1.0) for s, n in counts.items() if n}


def _by_letters(text: str, scripts: Sequence[str]) -> tuple[str, ...]:
    """Asks the detector about a text in scripts that several languages share."""
    if "latin" in scripts:
        enough = len(_LETTERS_OF["latin"].findall(text)) >= _LETTERS
        return _latin(text) if enough else ()
    likely = [code for script in scripts for code in _WRITTEN_IN[script]]
    guess, _ = _detector().classify(text)
    return (_SAME.get(guess, guess) if guess in likely else likely[0],)


def _latin(text: str) -> tuple[str, ...]:
    guess, probability = _detector().classify(text)
    if guess == "en":
        return ("en",)
    english = next(p for code, p in _detector().rank(text) if code == "en")
    return (_SAME.get(guess, guess),) if probability >= _ODDS * english else ()


@cache
def _detector() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    detector.set_languages(_KNOWN)
    return detector
