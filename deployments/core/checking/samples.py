"""Texts on which a model is compared with sentence-transformers: scripts, lengths, and odd cases."""

from __future__ import annotations

_SENTENCE = "The weather in the mountains changes quickly, so carry a jacket even in July. "

SHORT = (
    "a",
    "Hello, world!",
    "how much protein should a female eat",
    "The quick brown fox jumps over the lazy dog.",
    " leading and trailing spaces  ",
    "first line\nsecond line\n\n\tindented",
    "MiXeD CaSe, ALL CAPS and CamelCase",
    "ÉCOLE, façade, naïve, Straße, İstanbul, ﬁne",
    "e\u0301cole with combining accents, \u00a0and no-break spaces",
    "user@example.com https://example.com/a?b=c&d=1#e",
    "3.14159 1,000,000 2026-11-30 12:34:56 +49-30-1234",
    "don't can't won't it's \u2018quoted\u2019 \u201ctext\u201d \u2014 dash\u2026",
    'def f(x):\n    return {"a": [x ** 2, -1]}  # comment',
    "<html><body>&amp; <mask> [MASK] <unk></body></html>",
    "a literal </s> and <s> and <pad> and [PAD] and [SEP] and <|endoftext|>",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2665 \u2192 \u2260 \u221e",
    "zero\u200bwidth and soft\u00adhyphen",
    "x" * 60,
    "ααα βββ Ελληνικά κείμενα",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "El rápido zorro marrón salta sobre el perro perezoso, ¿verdad?",
    "Le renard brun rapide saute par-dessus le chien paresseux.",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "Швидка бура лисиця перестрибує через ледачого пса, її й ґанок",
    "敏捷的棕色狐狸跳过懒狗。南瓜的家常做法",
    "素早い茶色の狐は怠け者の犬を飛び越える。カタカナ",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다",
    "الثعلب البني السريع يقفز فوق الكلب الكسول",
    "השועל החום המהיר קופץ מעל הכלב העצלן",
    "तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है",
    "দ্রুত বাদামী শিয়াল অলস কুকুরের উপর লাফ দেয়",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "Con cáo nâu nhanh nhẹn nhảy qua con chó lười biếng",
    "ፈጣኑ ቡናማ ቀበሮ በሰነፉ ውሻ ላይ ይዘላል",
    "სწრაფი ყავისფერი მელა გადახტა ზარმაც ძაღლს",
    "விரைவான பழுப்பு நரி சோம்பேறி நாயின் மீது குதிக்கிறது",
    _SENTENCE * 3,
)


def samples(max_tokens: int) -> list[str]:
    """Returns some forty texts; the last two are just below the limit, and well over it."""
    limit = min(max_tokens, 8_192)
    return [*SHORT, *(_SENTENCE * (limit * part // 100 + 1) for part in (4, 14))]


def queries(max_tokens: int) -> tuple[str, str]:
    """Returns two queries of a reranker: a short one, and one of about half of the limit."""
    return SHORT[2], _SENTENCE * (min(max_tokens, 8_192) // 30 + 1)
