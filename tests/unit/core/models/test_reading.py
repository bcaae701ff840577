"""A long text is read no further than its model needs, and the ids are those of the whole text."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from deployments.core.errors import ContextLengthExceeded, InvalidRequest
from deployments.core.models import reading
from deployments.core.models.catalog import CATALOG
from deployments.core.models.reading import most_characters
from deployments.core.models.spec import Side, SpecialTokens
from deployments.core.models.tokenizer import FastTokenizer
from testing.models import tokenizers as tiny_tokenizers

ROOM = 14
SPEC = replace(CATALOG["e5-small"], max_tokens=ROOM + 2, special_tokens=SpecialTokens((0,), (1,)))
MOST = most_characters(ROOM)
SCRIPTS = {
    "latin": "the quick brown fox jumps over it. ",
    "chinese": "南瓜的家常做法，清炒南瓜丝。原料嫩南瓜半个",
    "japanese": "これは日本語の文章です。カタカナも",
    "thai": "ภาษาไทยเป็นภาษาที่มีการเขียนโดยไม่เว้นวรรค",
    "tibetan": "བོད་སྐད་ཀྱི་",
    "arabic": "مرحبا بالعالم هذا نص ",
    "hebrew": "שלום עולם ",
    "korean": "조선 원자력 발전소 최초의 ",
    "jamo": "\u1112\u1161\u11ab ",
    "hindi": "यह एक हिंदी वाक्य है ",
    "russian": "Первая атомная электростанция ",
    "greek": "Η πρώτη ΟΔΥΣΣΕΥΣ ",
    "turkish": "İstanbul ılık ",
    "georgian": "საქართველო ",
    "emoji": "😀👩\u200d👩\u200d👧🇩🇪",
    "marks": "e\u0301\u0327\u0323",
    "ligatures": "ﷺﬃ①㍿",
    "code": "if (x[i] == 0) { return a->b; }\n\t",
    "base64": "QmFzZTY0IGVuY29kZWQgdGV4dA",
    "run": "a",
    "pairs": "ab",
    "white space": "   \n\t\u3000",
    "invisible": "\u200b\u200d\ufeff",
    "punctuation": ".,;!?…—",
}


CORPUS = [*SCRIPTS.values(), "a few words many words two of them", *map(str, range(50))] * 4


def byte_level():
    """Returns GPT-2's kind, which Qwen and Llama 3 have too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


KINDS = {
    "wordpiece": lambda: tiny_tokenizers._wordpiece.__wrapped__(900, cased=False),
    "unigram": lambda: tiny_tokenizers._unigram.__wrapped__(900),
    "byte fallback": lambda: tiny_tokenizers._byte_fallback.__wrapped__(900),
    "byte level": byte_level,
}


def trained(kind):
    """Returns the JSON of a tokenizer that was trained on all scripts in little time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_tokenizers, "_corpus", lambda: CORPUS)
        return KINDS[kind]()


@pytest.fixture(scope="module", params=KINDS)
def serialized(request):
    return trained(request.param)


@pytest.fixture(scope="module")
def tokenizer(serialized):
    return FastTokenizer(SPEC, serialized)


@pytest.fixture(scope="module")
def from_the_end(serialized):
    return FastTokenizer(replace(SPEC, truncation_side=Side.LEFT), serialized)


def ids_of(tokenized):
    return [tokenized.batch.text(row).tolist() for row in range(len(tokenized.batch))]


def whole(tokenizer, text):
    """Returns the ids of the whole text, cut afterwards, as a reference."""
    content = tokenizer._tokenizer.encode(text, add_special_tokens=False).ids
    keeps_end = tokenizer._spec.truncation_side is Side.LEFT
    kept = content[max(0, len(content) - ROOM) :] if keeps_end else content[:ROOM]
    return [0, *kept, 1], len(content) > ROOM


def check(tokenizer, text):
    ids, is_cut = whole(tokenizer, text)
    tokenized = tokenizer.tokenize([text], truncate=True)
    assert ids_of(tokenized) == [ids]
    assert tokenized.truncated == ((0,) if is_cut else ())
    if is_cut:
        with pytest.raises(ContextLengthExceeded):
            tokenizer.tokenize([text])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("characters", [3_001, 9_002])
def test_the_ids_of_a_cut_text_are_those_of_the_whole_text(tokenizer, script, characters):
    check(tokenizer, (SCRIPTS[script] * characters)[:characters])


@pytest.mark.parametrize("script", SCRIPTS)
def test_so_are_those_of_a_text_that_loses_its_beginning(from_the_end, script):
    check(from_the_end, (SCRIPTS[script] * 9_002)[:9_002])


WORDS = st.sampled_from(sorted(SCRIPTS)).flatmap(
    lambda script: st.text(SCRIPTS[script], min_size=1, max_size=12)
)
TEXTS = st.builds(
    lambda words, times: ("".join(words) * times)[:8_000],
    st.lists(WORDS | st.text(max_size=6), min_size=1, max_size=40),
    st.sampled_from([1, 50, 400]),
)


@settings(max_examples=25)
@given(text=TEXTS)
def test_so_are_those_of_any_text_in_any_mix_of_scripts(tokenizer, text):
    check(tokenizer, text)


@pytest.fixture(scope="module")
def words():
    return FastTokenizer(SPEC, trained("wordpiece"))


class Counting:
    """A tokenizer that adds up the characters it is given."""

    def __init__(self, tokenizer):
        self.inner, self.characters, self.longest = tokenizer, 0, 0

    def encode(self, text, add_special_tokens):
        return self.encode_batch_fast([text], add_special_tokens)[0]

    def encode_batch_fast(self, texts, add_special_tokens):
        self.characters += sum(map(len, texts))
        self.longest = max(self.longest, *map(len, texts))
        return self.inner.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


@pytest.fixture
def counting(words, monkeypatch):
    counter = Counting(words._tokenizer)
    monkeypatch.setattr(words, "_tokenizer", counter)
    return counter


@pytest.mark.parametrize("truncate", [True, False])
def test_of_eight_megabytes_only_the_beginning_is_tokenized(words, counting, truncate):
    text = "a few words " * 700_000
    if truncate:
        assert words.tokenize([text], truncate=True).truncated == (0,)
    else:
        with pytest.raises(ContextLengthExceeded, match="at least"):
            words.tokenize([text])
    assert counting.characters < 20_000


@pytest.mark.parametrize("filler", ["\u200b", "a"])
def test_text_that_gives_hardly_any_tokens_is_not_read_for_ever(words, counting, filler):
    text = filler * 3_000_000
    assert words.tokenize([text], truncate=True).truncated == (0,)
    with pytest.raises(ContextLengthExceeded):
        words.tokenize([text])
    assert counting.longest <= MOST


def test_many_texts_are_tokenized_in_slices(words, monkeypatch):
    sizes = []
    encode = words.encode

    def watched(texts):
        sizes.append(sum(map(len, texts)))
        return encode(texts)

    monkeypatch.setattr(words, "encode", watched)
    texts = ["two words"] * 9_000
    assert len(words.tokenize(texts).batch) == len(texts)
    assert max(sizes) <= 65_536


def test_rows_are_counted_across_slices(words):
    texts = ["two words"] * 9_000
    texts[5_000] = texts[8_999] = "many words " * 9_000
    assert words.tokenize(texts, truncate=True).truncated == (5_000, 8_999)
    with pytest.raises(ContextLengthExceeded, match=r"text 5000 .*8999"):
        words.tokenize(texts)
    texts[7_000] = "\ud800"
    with pytest.raises(InvalidRequest, match="text 7000"):
        words.tokenize(texts)


def test_long_text_takes_little_memory_in_python(words):
    text = "a few words " * 700_000
    tracemalloc.start()
    try:
        words.tokenize([text], truncate=True)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_spans_of_a_long_text_are_in_order_and_reach_its_end(words, script, monkeypatch):
    monkeypatch.setattr(reading, "_SEGMENT_CHARACTERS", 1_000)
    text = (SCRIPTS[script] * 5_000)[:5_000]
    [spans] = words.spans([text])
    starts, stops = spans.offsets[:, 0], spans.offsets[:, 1]
    assert (starts <= stops).all()
    assert (starts[1:] >= starts[:-1]).all()
    assert (spans.words[1:] >= spans.words[:-1]).all()
    if spans.words.size:
        assert len(text) - 110 <= stops[-1] <= len(text)


def test_the_spans_of_segments_are_those_of_the_whole_text(tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "_SEGMENT_CHARACTERS", 1_000)
    text = "a few words\n" * 300
    [spans] = tokenizer.spans([text])
    encoding = tokenizer._tokenizer.encode(text, add_special_tokens=False)
    pieces = {text[a:b].strip() for a, b in spans.offsets.tolist()}
    assert pieces - {""} == {text[a:b].strip() for a, b in encoding.offsets} - {""}
    assert len(encoding.ids) <= len(spans.words) <= len(encoding.ids) + 2 * 4


@pytest.mark.parametrize(
    ("text", "is_read"),
    [
        ("", False),
        ("  \n\t", False),
        ("\u3000\u00a0", False),
        ("\u200b\u200d", False),
        ("\u0301\u0327", False),
        ("\x00\x07", False),
        ("😀", True),
        (".", True),
        ("_", True),
        ("ก", True),
        ("5", True),
    ],
)
def test_texts_of_which_a_model_reads_nothing(words, text, is_read):
    assert words.without_tokens(["a", text, "b"]) == ([] if is_read else [1])


@settings(max_examples=100)
@given(text=st.text(max_size=8) | st.text("\u200b\u0301 \x00a.", max_size=8))
def test_they_are_those_without_tokens_and_those_of_white_space(tokenizer, text):
    ids = tokenizer._tokenizer.encode(text, add_special_tokens=False).ids
    is_empty = not text.strip() or not ids
    assert tokenizer.without_tokens([text]) == ([0] if is_empty else [])


def test_a_megabyte_of_nothing_is_not_read_whole(words, counting):
    assert words.without_tokens(["\u200b" * 3_000_000]) == [0]
    assert counting.longest <= MOST
