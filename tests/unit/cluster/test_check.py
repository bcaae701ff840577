"""``embedfleet check``: what would be served of a model, or whether a config is valid."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
import yaml

from cluster import cli
from cluster.check import target_of
from deployments.core.errors import ModelUnavailable
from deployments.core.models import weights
from deployments.core.models.catalog import CATALOG
from testing.models.files import Recipe, edit_json
from testing.models.tiny import Shape, save_bert, save_encoder
from testing.running import free_port
from tests.support.documents import code_blocks

HEAVY = {"ray", "torch", "transformers", "pydantic", "httpx"}


@pytest.fixture
def checked(capsys):
    def run(*words):
        status = cli.main(["check", *map(str, words)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def offline(monkeypatch):
    def refuse(repo, *_):
        raise ModelUnavailable(f"the files of {repo} are not on this machine")

    monkeypatch.setattr(weights, "_download", refuse)


def facts(printed):
    """The lines of one model, by their names."""
    lines = [line.strip().split("  ", 1) for line in printed.splitlines()[1:]]
    return {name: value.strip() for name, value in lines}


def test_the_documented_command(checked):
    (block,) = [block for block in code_blocks("bash") if "embedfleet check" in block]
    _, _, *words = shlex.split(block)
    status, out, err = checked(*words)
    assert (status, err) == (0, "")
    assert facts(out)["status"] == "supported"


def test_a_model_of_the_catalog(checked):
    status, out, err = checked("all-minilm-l6-V2")
    assert (status, err) == (0, "")
    actual = facts(out)
    assert actual["status"] == "supported"
    assert actual["path"].startswith("fast")
    assert actual["network"] == "bert"
    assert actual["vectors"] == "384 dimensions, length 1"
    assert (actual["a query reads"], actual["a document reads"]) == ('"{text}"', '"{text}"')
    assert actual["limit"].startswith("256 tokens")
    assert actual["weights"] == "0.05 GB in half precision, 0.09 GB in float32"
    assert actual["space"] == "8552991f4674"


def test_a_folder_needs_no_weights_and_a_copy_is_noticed(checked, tmp_path):
    folder = save_bert(tmp_path / "our-e5-small", shape=Shape(hidden=384, layers=1))
    (folder / "model.safetensors").unlink()
    status, out, _ = checked(folder)
    assert status == 0
    actual = facts(out)
    assert actual["a query reads"] == '"query: {text}"'
    assert actual["a document reads"] == '"passage: {text}"'
    assert "`prompts`" in actual["notice"]


def test_what_is_refused_says_why(checked, tmp_path):
    folder = save_bert(tmp_path / "mine", Recipe(max_seq_length=64))
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling.Model"}, model_type="mine")
    status, out, err = checked(folder)
    assert (status, out) == (1, "")
    assert "auto_map" in err
    assert "trust_remote_code" in err


def test_without_its_files_the_catalog_still_says_what_it_knows(checked, offline):
    status, out, err = checked("intfloat/Multilingual-E5-Large")
    assert status == 1
    assert facts(out)["a query reads"] == '"query: {text}"'
    assert "not on this machine" in err


def test_a_model_that_would_give_other_vectors_is_refused_without_its_files(checked, offline):
    status, out, err = checked("jinaai/jina-embeddings-v3")
    assert (status, out) == (1, "")
    assert "adapter" in err


@pytest.mark.parametrize("what", ["e5-smal", "/no/such/folder", "a/b/c", ""])
def test_what_is_nothing_is_refused_at_once(checked, what):
    status, out, err = checked(what)
    assert (status, out) == (2, "")
    assert "no file or folder" in err


def test_a_folder_goes_before_a_name_of_the_catalog(tmp_path, monkeypatch):
    assert target_of("E5-Small").name == "e5-small"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e5-small").mkdir()
    target = target_of("e5-small")
    assert (target.name, target.path) == ("e5-small", str(tmp_path / "e5-small"))


CONFIG = {
    "applications": [
        {"import_path": "deployments.app:build", "args": {"models": [{"name": "e5-small"}]}}
    ]
}


@pytest.fixture
def config(tmp_path):
    def write(content):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


def test_a_valid_config(checked, config):
    status, out, err = checked(config(CONFIG))
    assert (status, err) == (0, "")
    assert "e5-small" in out


def with_model(**fields):
    content = json.loads(json.dumps(CONFIG))
    content["applications"][0]["args"]["models"][0] |= fields
    return content


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (with_model(prompts={"query": "query: "}), "models.0.prompts.query"),
        (with_model(num_gpu=1), "models.0.num_gpu"),
        ({**CONFIG, "http_option": {}}, "http_option"),
        ({"applications": []}, "applications"),
    ],
)
def test_an_invalid_config_is_refused_as_serve_does(checked, config, content, field):
    status, out, err = checked(config(content))
    assert (status, out) == (2, "")
    assert field in err


@pytest.fixture
def with_keys(config, tmp_path):
    """Writes a config whose keys file has this text, or is not there."""

    def write(text=None):
        keys = tmp_path / "keys.yaml"
        if text is not None:
            keys.write_text(text)
        content = json.loads(json.dumps(CONFIG))
        content["applications"][0]["args"]["api"] = {"keys_file": str(keys)}
        return config(content)

    return write


KEYS = f"keys: [{{name: a, sha256: {'a' * 64}, models: [MODEL]}}]"


def test_the_keys_file_of_a_config(checked, with_keys):
    status, out, err = checked(with_keys(KEYS.replace("MODEL", "e5-small")))
    assert (status, err) == (0, "")
    assert "keys.yaml is valid" in out


def test_a_wrong_keys_file_is_refused(checked, with_keys):
    status, out, err = checked(with_keys(KEYS.replace("MODEL", "e5-base")))
    assert (status, out) == (2, "")
    assert "api.keys_file: " in err
    assert "keys.0.models" in err


def test_a_keys_file_that_is_missing_is_refused_as_serve_does(checked, with_keys, tmp_path, capsys):
    file = with_keys()
    status, out, err = checked(file)
    assert (status, out) == (2, "")
    assert err == f"embedfleet: api.keys_file: there is no {tmp_path / 'keys.yaml'}\n"
    assert cli.main(["serve", str(file), "--port", str(free_port())]) == 2
    assert capsys.readouterr().err == err


def test_weights_are_for_models(checked, config):
    status, out, err = checked(config(CONFIG), "--weights")
    assert (status, out) == (2, "")
    assert "--weights" in err


def test_a_config_that_is_not_there(checked, tmp_path):
    status, _, err = checked(tmp_path / "missing.yaml")
    assert status == 2
    assert "there is no" in err


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["check", "e5-smal"], set()),
        (["check", "/no/such/folder"], set()),
        (["check", "jinaai/jina-embeddings-v3"], set()),
        (["models", "--catalog"], set()),
        (["check", "BAD"], {"pydantic"}),
    ],
)
def test_such_answers_load_nothing_slow(words, allowed, config):
    bad = str(config(with_model(num_gpu=1)))
    words = [bad if word == "BAD" else word for word in words]
    script = (
        "import sys; from cluster import cli; cli.main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert HEAVY.intersection(ran.stderr.split()) <= allowed


def test_every_name_of_the_catalog_is_a_target():
    assert [target_of(name).name for name in CATALOG] == list(CATALOG)


def test_a_model_of_the_general_path_says_why(checked, tmp_path):
    folder = save_encoder(tmp_path / "mine", "electra")
    status, out, _ = checked(folder)
    assert status == 0
    assert facts(out)["path"].startswith("general, since")
    assert "electra" in facts(out)["path"]
