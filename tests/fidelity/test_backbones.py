"""Models that the catalog does not name, in passes with padding and without."""

from __future__ import annotations

import pytest
from sentence_transformers import SentenceTransformer

from deployments.core.engine.engine import TorchEngine
from deployments.core.models.local_format import read_spec
from testing.models.files import edit_json
from testing.models.tiny import save_encoder, save_mistral
from tests.fidelity.pipeline import encode
from tests.support.hardware import needs_fbgemm
from tests.support.tolerance import FLOAT32, WORST, WRONG, worst_cosine

PADDED = ("albert", "deberta", "deberta-v2", "electra")
# the random weights of the others are drawn too wide for bfloat16
HALF = ("deberta-v2", "mpnet", "bert", "camembert", "roberta")
FLAT = (
    "bert",
    "camembert",
    "distilbert",
    "mpnet",
    "roberta",
)  # RoBERTa's positions count from the padding id, 0 here


@pytest.mark.parametrize(
    ("backbone", "dtype"),
    [
        *((b, "float32") for b in (*PADDED, *FLAT)),
        *(pytest.param(b, "float16", marks=needs_fbgemm) for b in (*PADDED, *FLAT)),
        *((b, "bfloat16") for b in HALF),
    ],
)
def test_the_vectors_are_those_of_sentence_transformers(tmp_path, texts, backbone, dtype):
    spec = read_spec("own", save_encoder(tmp_path, backbone))
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    assert worst_cosine(encode(spec, tmp_path, texts, dtype=dtype), expected) >= WORST[dtype]


@pytest.mark.parametrize("backbone", [*PADDED, *FLAT])
def test_only_an_unknown_backbone_is_padded(tmp_path, backbone):
    spec = read_spec("own", save_encoder(tmp_path, backbone))
    assert TorchEngine(spec, tmp_path, "cpu").pads is (backbone in PADDED)


@pytest.mark.parametrize("window", [1, 16, 63, 64])
def test_a_window_that_is_shorter_than_the_texts(tmp_path, texts, window):
    save_mistral(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", add_eos_token=False)  # as ST reads it
    whole = encode(read_spec("own", tmp_path), tmp_path, texts)
    edit_json(tmp_path / "config.json", sliding_window=window)
    actual = encode(read_spec("own", tmp_path), tmp_path, texts)
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    assert worst_cosine(actual, expected) >= FLOAT32
    assert (worst_cosine(actual, whole) <= WRONG) is (window <= 16)
