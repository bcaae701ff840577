"""Code of a model's own repository runs only where the config trusts it, at a pinned revision."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from deployments.core.engine.engine import TorchEngine
from deployments.core.errors import UnsupportedModel
from deployments.core.models.loading import find_model
from deployments.core.models.overrides import Overrides
from testing.models.files import edit_json
from testing.models.tiny import save_bert
from tests.fidelity.pipeline import encode
from tests.support.tolerance import FLOAT32, worst_cosine

TEXTS = ["a", "x y z " * 9, "first line\nsecond line"]
PINNED = "0123456789abcdef0123456789abcdef01234567"
TRUSTED = Overrides(trust_remote_code=True)
# turns BERT's hidden states around: vectors without this code have other cosines
CODE = """
from transformers import BertModel


class Turned(BertModel):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state.flip(-1).abs()
        return output
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_bert(tmp_path_factory.mktemp("remote") / "mine")
    (folder / "turned.py").write_text(CODE)
    edit_json(folder / "config.json", auto_map={"AutoModel": "turned.Turned"})
    return folder


def test_an_unknown_architecture_is_refused_unless_its_code_is_trusted(tmp_path):
    unknown = save_bert(tmp_path / "unknown")
    edit_json(unknown / "config.json", model_type="turned", auto_map={"AutoModel": "turned.Turned"})
    with pytest.raises(UnsupportedModel, match=r"trust_remote_code: true.*revision"):
        find_model("mine", str(unknown), PINNED)


def test_a_known_architecture_runs_without_the_code_unless_it_is_trusted(folder):
    files = find_model("mine", str(folder), PINNED)
    reference = SentenceTransformer(str(folder), device="cpu", trust_remote_code=False)
    ours = encode(files.spec, files.folder, TEXTS)
    assert worst_cosine(ours, reference.encode(TEXTS)) >= FLOAT32
    assert (np.asarray(ours) < 0).any()  # so it was BERT's own code


def test_the_trusted_code_computes_the_vectors(folder):
    files = find_model("mine", str(folder), PINNED, TRUSTED)
    engine = TorchEngine(files.spec, files.folder, "cpu", "float32")
    assert "code" in engine.why_general
    reference = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    ours = encode(files.spec, files.folder, TEXTS)
    assert worst_cosine(ours, reference.encode(TEXTS)) >= FLOAT32
    assert (np.asarray(ours) >= 0).all()  # so it was not BERT's own code


@pytest.mark.parametrize(
    "auto_map",
    [
        {"AutoModel": "acme/other--turned.Turned"},
        {"AutoTokenizer": [None, "acme/other--tokens.Tokens"], "AutoModel": "turned.Turned"},
    ],
)
def test_code_of_another_repository_is_not_pinned_so_it_is_refused(folder, tmp_path, auto_map):
    other = save_bert(tmp_path / "other")
    edit_json(other / "config.json", auto_map=auto_map)
    with pytest.raises(UnsupportedModel, match="acme/other"):
        find_model("mine", str(other), PINNED, TRUSTED)
