"""Cross-encoders give sentence-transformers' logits for pairs of token ids, alone and among others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)

from deployments.core.batch import TokenBatch, Vectors
from deployments.core.engine.engine import TorchEngine
from deployments.core.errors import ModelUnavailable
from deployments.core.models.spec import Role
from testing.docstrings import docstrings
from testing.models.architectures import save_backbone
from testing.models.tiny import save_bert, save_encoder, save_xlm_roberta
from tests.fidelity.token_ids import spec_of, with_prompts

Save = Callable[[Path], Path]
BASES: dict[str, Save] = {
    "bert": save_bert,
    "xlm-roberta": save_xlm_roberta,
    "electra": lambda folder: save_encoder(folder, "electra"),
    "modernbert": lambda folder: save_backbone(folder, "modernbert"),
    "qwen3": lambda folder: save_backbone(folder, "qwen3"),
}
PAIRS = [
    *zip(docstrings(8, longest_words=12), docstrings(8, longest_words=20)[::-1], strict=True),
    ("a", "b"),
    ("yes and no", "x"),
]


def save(folder: Path, name: str, labels: int = 1) -> Path:
    """Writes a cross-encoder as its authors do: without sentence-transformers' files."""
    BASES[name](folder)
    for path in [*folder.glob("*sentence*"), folder / "modules.json"]:
        path.unlink()
    config = AutoConfig.from_pretrained(folder, num_labels=labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _with_head(name, config).save_pretrained(folder)
    return folder


def _with_head(name: str, config: PreTrainedConfig) -> torch.nn.Module:
    auto = AutoModelForCausalLM if name == "qwen3" else AutoModelForSequenceClassification
    return auto.from_config(config)


def expected(model: CrossEncoder, pairs: list[tuple[str, str]]) -> Vectors:
    logits = model.predict(pairs, activation_fn=torch.nn.Identity())
    return logits.reshape(len(pairs), -1)


def batch_of(model: CrossEncoder, pairs: list[tuple[str, str]]) -> TokenBatch:
    """The ids that sentence-transformers makes of each pair, and where its second text starts."""
    ids, splits = [], []
    for pair in pairs:
        features = model.preprocess([pair])
        ids.append(features["input_ids"][0].tolist())
        types = features.get("token_type_ids", torch.zeros(1, len(ids[-1])))[0]
        splits.append(int((types == 0).sum()))
    return with_prompts(TokenBatch.from_lists(ids), [Role.DOCUMENT] * len(pairs), splits)


@pytest.mark.parametrize(("name", "labels"), [*((name, 1) for name in BASES), ("bert", 3)])
def test_the_logits_are_those_of_sentence_transformers(tmp_path, name, labels):
    folder = save(tmp_path, name, labels)
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    batch = batch_of(model, PAIRS)
    spec = spec_of(folder, name, dimension=labels)
    engine = TorchEngine(spec, folder, "cpu", "float32", scores=True)
    assert engine.why_general == "it scores pairs of texts"
    assert engine.pads, "padding is where this model expects it"
    found = engine.forward(batch)
    np.testing.assert_allclose(found, expected(model, PAIRS), rtol=1e-4, atol=1e-5)
    alone = [engine.forward(batch.slice(row, row + 1)) for row in range(len(batch))]
    np.testing.assert_allclose(np.concatenate(alone), found, rtol=1e-4, atol=1e-5)
    assert found.std() > 0.01, "all pairs score alike"


def test_the_first_text_ends_where_the_batch_says(tmp_path):
    folder = save(tmp_path, "bert")
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    batch = batch_of(model, PAIRS)
    engine = TorchEngine(
        spec_of(folder, "bert", dimension=1), folder, "cpu", "float32", scores=True
    )
    others = with_prompts(batch, [Role.DOCUMENT] * len(batch), batch.lengths.tolist())
    assert np.abs(engine.forward(others) - engine.forward(batch)).max() > 0.01


def test_a_model_without_a_head_is_refused(tmp_path):
    folder = save_bert(tmp_path)
    (folder / "modules.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"lack .*classifier"):
        TorchEngine(spec_of(folder, "bert", dimension=1), folder, "cpu", scores=True)
