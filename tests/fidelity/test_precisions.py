"""Every family of models in half precision: near its float32 vectors, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from deployments.core.batch import Vectors
from deployments.core.checking.verdict import Engines, checked_engine
from deployments.core.engine.engine import TorchEngine
from deployments.core.errors import UnsupportedModel
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from testing.docstrings import docstrings
from testing.models.architectures import FAMILIES, save_family
from testing.models.files import Recipe
from tests.support.tolerance import WRONG, worst_cosine

LIMIT = 48
TEXTS = ["a", "How much protein should a female eat?", *docstrings(8, longest_words=LIMIT)]
SAMPLE = 7  # every seventh runs in each test run, all of them under the marker `long`


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(tmp_path_factory.mktemp("cache")))


def load(folder: Path, dtype: str, expected: Vectors) -> TorchEngine:
    """Loads and compares the model as a replica does."""
    files = find_model("own", str(folder))
    description = describe(files.spec, folder)
    engine, _ = checked_engine(Engines(description, files, "cpu", dtype))
    batch = description.fast_tokenizer().tokenize(TEXTS, truncate=True).batch
    if not description.spec.special_tokens:  # where we differ from it on purpose
        assert worst_cosine(engine.forward(batch), expected) >= WRONG
    return engine


def check(tmp_path: Path, family: str) -> None:
    folder = save_family(tmp_path, family, Recipe(max_seq_length=LIMIT))
    stock = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    expected = stock.encode_document(TEXTS, batch_size=1)  # padding changes the vectors of some
    load(folder, "auto", expected)
    for dtype in ("bfloat16", "float16"):
        refusal = ""
        try:
            assert str(load(folder, dtype, expected).dtype) == f"torch.{dtype}"
        except UnsupportedModel as error:
            refusal = error.message
        assert not refusal or (dtype in refusal and "`dtype`" in refusal), refusal


@pytest.mark.parametrize("family", list(FAMILIES)[::SAMPLE])
def test_right_or_refused(tmp_path, family):
    check(tmp_path, family)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_each_is_right_or_refused(tmp_path, family):
    check(tmp_path, family)
