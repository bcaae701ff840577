"""Small tokenizers of the three kinds that the catalog's models have, trained on docstrings.

Each is a `tokenizers.Tokenizer` built of the same parts as the real ``tokenizer.json``, with the
real one's special tokens, ids and quirks.
"""

from __future__ import annotations

import json
from functools import cache

from sentencepiece import SentencePieceNormalizer, sentencepiece_model_pb2
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from testing.docstrings import docstrings

_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_XLM_R_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_MISTRAL_SPECIAL = ("<unk>", "<s>", "</s>")
# what the real vocabularies know beside English; anything else is unknown, or bytes in Mistral's
_MULTILINGUAL = (
    "how much protein should a female eat 南瓜的家常做法 清炒南瓜丝 原料 嫩南瓜半个 조선 원자력 발전소 "
    "최초의 무엇인가 первая атомная электростанция où est l'énergie größe"
)


@cache
def _corpus() -> tuple[str, ...]:
    return (*docstrings(800, longest_words=200), *[_MULTILINGUAL] * 20)


def _word_pieces(vocabulary: int, cased: bool) -> list[str]:
    """Learns pieces of words; each stands in the vocabulary as a beginning and as a ``##`` rest."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # not the WordPiece trainer, whose vocabulary changes from run to run
    size = (vocabulary - len(_BERT_SPECIAL)) // 2
    learner.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=size, show_progress=False)
    )
    pieces = sorted(learner.get_vocab())
    return [*_BERT_SPECIAL, *pieces, *(f"##{piece}" for piece in pieces)]


@cache
def _wordpiece(vocabulary: int, cased: bool) -> str:
    ids = {piece: i for i, piece in enumerate(_word_pieces(vocabulary, cased))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(_BERT_SPECIAL))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # as in all-MiniLM-L6-v2: a length of its own is baked in, which is not the model's limit
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_id=0, pad_token="[PAD]")
    return tokenizer.to_str()


def wordpiece(vocabulary: int = 1_000, cased: bool = False) -> Tokenizer:
    """Returns BERT's kind: ``[PAD]`` 0, ``[UNK]`` 1, ``[CLS]`` 2, ``[SEP]`` 3, ``[MASK]`` 4."""
    return Tokenizer.from_str(_wordpiece(vocabulary, cased))


def _precompiled() -> normalizers.Precompiled:
    """Returns the normaliser of the real one, a table that sentencepiece compiled."""
    spec = sentencepiece_model_pb2.NormalizerSpec()  # type: ignore[attr-defined]
    spec.ParseFromString(SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_normalizer_spec())
    return normalizers.Precompiled(spec.precompiled_charsmap)


def _with_xlm_r_parts(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = _precompiled()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _unigram_pieces(vocabulary: int) -> list[tuple[str, float]]:
    learner = _with_xlm_r_parts(Tokenizer(models.Unigram()))
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary - 1,  # <mask> comes last
        special_tokens=list(_XLM_R_SPECIAL),
        unk_token="<unk>",
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(), trainer)
    learned = json.loads(learner.to_str())["model"]["vocab"][len(_XLM_R_SPECIAL) :]
    # sorted and rounded, since the trainer's order and last digits change from run to run
    pieces = sorted((piece, round(score, 2)) for piece, score in learned)
    return [*((token, 0.0) for token in _XLM_R_SPECIAL), *pieces, ("<mask>", 0.0)]


@cache
def _unigram(vocabulary: int) -> str:
    model = models.Unigram(_unigram_pieces(vocabulary), unk_id=3)
    tokenizer = _with_xlm_r_parts(Tokenizer(model))
    tokenizer.add_special_tokens([*_XLM_R_SPECIAL, "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer.to_str()


def unigram(vocabulary: int = 1_000) -> Tokenizer:
    """Returns XLM-R's kind: ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, ``<mask>`` last."""
    return Tokenizer.from_str(_unigram(vocabulary))


def _merges(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Learns pieces of words; whatever is not printable ASCII is left to the bytes."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(Regex("[^ -~]+"), " ")
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False)
    learner.train_from_iterator(_corpus(), trainer)
    model = json.loads(learner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [(left, right) for left, right in model["merges"]]


@cache
def _byte_fallback(vocabulary: int) -> str:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    first = [*_MISTRAL_SPECIAL, *byte_tokens]
    pieces, merges = _merges(vocabulary - len(first))
    ids = {piece: i for i, piece in enumerate([*first, *pieces])}
    bpe = models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.add_special_tokens(list(_MISTRAL_SPECIAL))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer.to_str()


def byte_fallback(vocabulary: int = 1_000) -> Tokenizer:
    """Returns Llama's and Mistral's kind: ``<unk>`` 0, ``<s>`` 1, ``</s>`` 2, then 256 bytes.

    As in e5-mistral's ``tokenizer.json``, the post-processor adds ``<s>`` only.
    """
    return Tokenizer.from_str(_byte_fallback(vocabulary))


@cache
def _byte_level(vocabulary: int, roberta: bool) -> str:
    special = [*_XLM_R_SPECIAL, "<mask>"] if roberta else ["<|endoftext|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    size = vocabulary - len(special)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(_corpus(), trainer)
    model = json.loads(learner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    ids = {piece: i for i, piece in enumerate([*special, *pieces])}
    tokenizer = Tokenizer(models.BPE(ids, [tuple(merge) for merge in model["merges"]]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if roberta:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer.to_str()


def byte_level(vocabulary: int = 1_000, roberta: bool = False) -> Tokenizer:
    """Returns GPT-2's and Qwen's kind: ``<|endoftext|>`` 0, and no special tokens around a text.

    RoBERTa's has its special tokens: ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, ``<mask>`` 4.
    """
    return Tokenizer.from_str(_byte_level(vocabulary, roberta))
