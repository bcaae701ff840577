"""``embedfleet bench``: the speed of a model on this machine, without a service."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from cluster import cli
from deployments.core.engine import calibration, matrix_rate, speed
from testing.models.combinations import MODULES
from testing.models.files import MEAN
from testing.models.rerankers import save_reranker
from testing.models.tiny import save_bert


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr(matrix_rate, "_SECONDS", 0.01)
    monkeypatch.setattr(speed, "_ROUND_S", 0.01)
    monkeypatch.setattr(calibration, "_TRIES", 1)

    def bench(*words):
        status = cli.main(["bench", "--seconds", "0.05", *map(str, words)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return bench


def save_static(folder):
    MODULES["StaticEmbedding"](save_bert(folder))
    return folder


def test_each_length_is_measured_up_to_the_models_limit(run, tmp_path):
    folder = save_bert(tmp_path / "tiny", replace(MEAN, max_seq_length=64))
    status, out, _ = run(folder, "--json", "--dtype", "float32", "--threads", "1")
    report = json.loads(out)
    assert status == 0
    assert [row["tokens_a_text"] for row in report["speeds"]] == [16, 64]
    for row in report["speeds"]:
        assert row["tokens_per_s"] == pytest.approx(
            row["texts_per_s"] * row["tokens_a_text"], rel=0.01
        )
        assert row["share"] > 0
    assert (report["dtype"], report["threads"], report["path"]) == ("float32", 1, "fast")
    assert report["compared_with"].startswith("sentence-transformers ")


def test_the_report_says_how_long_a_corpus_takes(run, tmp_path):
    status, out, _ = run(save_bert(tmp_path / "tiny"))
    assert status == 0
    assert "a million texts of" in out


@pytest.mark.parametrize("save", [save_reranker, save_static])
def test_other_kinds_of_models_are_measured_too(run, tmp_path, save):
    status, out, _ = run(save(tmp_path / "tiny"), "--json")
    report = json.loads(out)
    assert status == 0
    for row in report["speeds"]:
        assert row["tokens_per_s"] > 0
        assert (row["share"] is None) == (report["path"] != "fast")


def test_what_is_no_model_is_said_at_once(run):
    assert run("no-such-model")[0] == 2


def test_a_model_that_is_refused_is_named(run, tmp_path):
    folder = save_bert(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    status, _, err = run(folder)
    assert status == 1
    assert str(folder) in err


def test_ray_is_not_imported(tmp_path):
    code = "import sys; import cluster.bench, deployments.core.engine.speed; print('ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
