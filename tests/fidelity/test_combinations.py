"""Model folders as hubs have them: each gives sentence-transformers' vectors, or is refused by name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerFast

from deployments.core.errors import EmbedfleetError
from deployments.core.models.loading import find_model
from deployments.core.models.local_format import position_limit
from deployments.core.models.modules import read_optional_json
from deployments.core.models.spec import Role
from testing.docstrings import docstrings
from testing.models.combinations import COMBINATIONS, E5_PROMPTS, LIMIT
from tests.fidelity.pipeline import Pipeline
from tests.support.tolerance import FLOAT32, worst_cosine

SAMPLE = 8  # every eighth runs in each test run, all of them under the marker `long`
TEXTS = [
    "a",
    "first line\nsecond line\n\n\tindented",
    "How much protein should a female eat?",
    "南瓜的家常做法: 1.清炒南瓜丝",
    "ÉCOLE ﬁne  Straße ♥ \U0001f600",
    "a literal </s> and <s> and [SEP] and <mark> of the text",
    " leading and trailing ",
    *docstrings(8, longest_words=LIMIT),
    "word and another word " * LIMIT,
]


@dataclass(frozen=True)
class Outcome:
    """What became of a model: refused, or its least cosine to sentence-transformers, and where."""

    refusal: EmbedfleetError | None = None
    cosines: dict[str, float] | None = None

    @property
    def is_right(self) -> bool:
        return self.cosines is not None and min(self.cosines.values()) >= FLOAT32


def as_trained(folder: Path) -> SentenceTransformer:
    """Returns the reference: sentence-transformers, but for what we do otherwise on purpose.

    - A Llama tokenizer is that of ``tokenizer.json``, with the special tokens that its flags ask for.
    - No text is longer than the network has positions for.
    - A prompt called `passage` is that of documents, and a default prompt stands before both roles.
    """
    reference = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    config = read_optional_json(folder / "tokenizer_config.json")
    kind = read_optional_json(folder / "tokenizer.json").get("model") or {}
    if config.get("tokenizer_class") == "LlamaTokenizer" and kind.get("byte_fallback"):
        own = PreTrainedTokenizerFast.from_pretrained(folder)
        own.model_max_length = reference.max_seq_length
        if "add_bos_token" in config:
            own.add_bos_token, own.add_eos_token = config["add_bos_token"], config["add_eos_token"]
        reference[0].processor = own
    if (limit := position_limit(folder)) is not None:
        reference.max_seq_length = min(reference.max_seq_length or limit, limit)
    prompts = read_optional_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    default = prompts.get(reference.default_prompt_name)
    if reference.default_prompt_name not in (None, *E5_PROMPTS):
        reference.prompts |= {"query": default, "document": default}
    if "passage" in prompts:
        reference.prompts["document"] = prompts["passage"]
    reference.prompts |= {role: prompts[role] for role in Role if role in prompts}
    return reference


def outcome(folder: Path) -> Outcome:
    """Loads the model as the service would, and compares."""
    try:
        files = find_model("own", str(folder))
        pipeline = Pipeline.load(files.spec, files.folder)
    except EmbedfleetError as error:
        return Outcome(refusal=error)
    reference = as_trained(folder)
    cosines = {}
    for role in Role:
        encode = reference.encode_query if role is Role.QUERY else reference.encode_document
        expected = encode(TEXTS, batch_size=1)
        cosines[f"{role} together"] = worst_of(pipeline.encode(TEXTS, role), expected)
        alone = np.concatenate([pipeline.encode([text], role) for text in TEXTS[-4:]])
        cosines[f"{role} alone"] = worst_of(alone, expected[-4:])
    return Outcome(cosines=cosines)


def worst_of(ours: np.ndarray, expected: np.ndarray) -> float:
    """Returns the least cosine. A text that its prompt covers has no direction in either."""
    nothing = ~np.isfinite(expected).all(axis=1) | ~expected.any(axis=1)
    np.testing.assert_array_equal(~np.isfinite(ours).all(axis=1) | ~ours.any(axis=1), nothing)
    return worst_cosine(ours[~nothing], expected[~nothing])


def check(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        actual = outcome(COMBINATIONS[name].save(tmp_path))
    assert actual.refusal is not None or actual.is_right, actual.cosines


@pytest.mark.parametrize("name", list(COMBINATIONS)[::SAMPLE])
def test_right_or_refused(tmp_path, name):
    check(tmp_path, name)


@pytest.mark.long
@pytest.mark.parametrize("name", COMBINATIONS)
def test_each_is_right_or_refused(tmp_path, name):
    check(tmp_path, name)
