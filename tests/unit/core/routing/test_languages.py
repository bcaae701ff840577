"""The language of a text: what tells it, and what must not."""

from __future__ import annotations

import pytest

from deployments.core.routing.languages import languages_of, normalized

SURE = {
    "how much protein should a female eat": "en",
    "Wie viel Eiweiß sollte eine Frau am Tag essen?": "de",
    "la première centrale nucléaire du monde": "fr",
    "¿Cuánta proteína debería comer una mujer?": "es",
    "南瓜的家常做法": "zh",
    "清炒南瓜丝 原料:嫩南瓜半个": "zh",
    "조선 원자력 발전소 최초의 무엇인가": "ko",
    "日本語のテキストを埋め込む": "ja",
    "первая атомная электростанция": "ru",
    "نص عربي قصير للبحث": "ar",
    "טקסט קצר בעברית": "he",
    "ข้อความภาษาไทย": "th",
    "μια σύντομη ελληνική πρόταση": "el",
    "이것은 API 문서입니다 for the router": "ko",  # mixed: the script with a share counts
    "Where can I buy 南瓜 and other vegetables here?": "en",  # one foreign word does not
    "Wszyscy ludzie rodzą się wolni i równi": "pl",
}
UNSURE = [
    "",
    " ",
    "hello",
    "42",
    "8fe12 aa99 00-11",
    "😀😀",
    "größe",
    "Bonjour",
    "https://a.b/c",
    "—",
]


@pytest.mark.parametrize("text", SURE)
def test_what_is_sure(text):
    assert languages_of([text]) == {SURE[text]}


@pytest.mark.parametrize("text", UNSURE)
def test_too_little_tells_nothing(text):
    assert languages_of([text]) == frozenset()


def test_a_batch_has_the_languages_of_all_its_texts():
    assert languages_of(["한국어 텍스트입니다", "an English text about plants", "hi"]) == {
        "ko",
        "en",
    }
    assert languages_of([]) == frozenset()


def test_a_foreign_word_more_or_less_does_not_flip_an_english_text():
    text = "the quick brown fox jumps over the lazy dog near the river bank"
    for word in ("Schadenfreude", "déjà vu", "smörgåsbord", "南瓜", "привет"):
        assert languages_of([f"{text} {word}"]) <= {"en"}


def test_many_texts_cost_no_more_than_some():
    assert languages_of(["an English text about plants"] * 10_000) == {"en"}


def test_other_names_of_a_language():
    assert normalized(["no", "nn", "en"]) == {"nb", "en"}
