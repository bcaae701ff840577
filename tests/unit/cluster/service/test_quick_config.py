"""The config that `embedfleet serve --model` stands for."""

from __future__ import annotations

import math
import os

import pytest
import yaml

from cluster.service.config_file import read_config, written
from cluster.service.quick_config import Machine, Options, as_yaml, this_machine
from deployments.config.schema import AppArgs

LAPTOP = Machine(cores=2, gpus=0)


def args_of(models, machine=LAPTOP, **options):
    (app,) = yaml.safe_load(as_yaml(models, lambda: machine, Options(**options)))["applications"]
    return AppArgs.model_validate(app["args"])


def model_in(folder):
    """A folder that looks like one of a model."""
    folder.mkdir(parents=True)
    (folder / "modules.json").write_text("[]")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("e5-small", "e5-small"),
        ("intfloat/e5-small", "e5-small"),
        ("acme/tiny", "acme/tiny"),
    ],
)
def test_names_of_the_catalog_and_hub_ids(model, name):
    (actual,) = args_of([model]).models
    assert (actual.name, actual.path, actual.threads) == (name, None, "auto")


@pytest.mark.parametrize(
    "written", ["{folder}/our-model", "our-model", "./our-model", "~/our-model"]
)
def test_a_folder_is_named_by_its_last_part(tmp_path, monkeypatch, written):
    model_in(tmp_path / "our-model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (actual,) = args_of([written.format(folder=tmp_path)]).models
    assert (actual.name, actual.path) == ("our-model", str((tmp_path / "our-model").resolve()))


@pytest.mark.parametrize("name", ["e5-small", "intfloat/e5-small"])
def test_a_folder_in_the_way_does_not_stand_for_a_name_of_the_catalog(tmp_path, monkeypatch, name):
    (tmp_path / "e5-small").mkdir()
    monkeypatch.chdir(tmp_path)
    (actual,) = args_of([name]).models
    assert (actual.name, actual.path) == ("e5-small", None)


def test_a_folder_named_as_in_the_catalog_holds_that_models_weights(tmp_path):
    model_in(tmp_path / "e5-small")
    (actual,) = args_of([str(tmp_path / "e5-small")]).models
    assert (actual.name, actual.path) == ("e5-small", str((tmp_path / "e5-small").resolve()))


@pytest.mark.parametrize("gpus", range(5))
@pytest.mark.parametrize("cores", [1, 2, 96])
@pytest.mark.parametrize("models", [1, 2, 3, 5, 9])
def test_all_have_a_place_at_once(models, cores, gpus):
    actual = args_of([f"acme/{n}" for n in range(models)], Machine(cores, gpus)).models
    (share,) = {model.num_gpus for model in actual}
    (cpus,) = {model.num_cpus for model in actual}
    assert models * cpus <= cores
    # for a corpus job's worker, and beside it a task of Ray Data
    assert cores - models * cpus >= (0.25 if cores == 1 else 1.0)
    assert 0 < cpus <= 1
    assert bool(share) == bool(gpus)
    assert {model.threads for model in actual} == {None if gpus else "auto"}
    if gpus:
        on_each = math.floor(1 / share + 1e-9)  # a replica's share is of one GPU
        assert gpus * on_each >= models
        assert (share == 1) is (models <= gpus)


@pytest.mark.parametrize(
    "model",
    [
        "",
        "/",
        "e5-smal",
        "./nowhere/",
        "~/nowhere",
        "~nobody-here/x",
        "/nowhere/at/all",
        "x" * 5_000,
    ],
)
def test_what_is_neither_is_refused(model):
    with pytest.raises(ValueError, match="no folder is there, and it is neither"):
        as_yaml([model], lambda: LAPTOP)


@pytest.mark.parametrize(
    ("name", "missing"), [("our-model", "modules.json"), ("e5-small", "config.json")]
)
def test_a_folder_without_a_model_is_refused(tmp_path, name, missing):
    (model_in(tmp_path / name) / missing).unlink()
    with pytest.raises(ValueError, match=rf"{name} has no {missing}"):
        as_yaml([str(tmp_path / name)], lambda: pytest.fail("the machine was counted"))


def test_options_hold_for_every_model():
    args = args_of(["e5-small", "acme/tiny"], dtype="float32", threads=1, truncate=True)
    assert {(model.dtype, model.threads) for model in args.models} == {("float32", 1)}
    assert args.truncate
    args = args_of(["e5-small"])
    assert (args.models[0].dtype, args.models[0].threads, args.truncate) == ("auto", "auto", False)


def test_two_of_one_name_are_refused(tmp_path):
    model_in(tmp_path / "a" / "own")
    model_in(tmp_path / "b" / "own")
    with pytest.raises(ValueError, match="two models would be named own"):
        as_yaml([str(tmp_path / "a" / "own"), str(tmp_path / "b" / "own")], lambda: LAPTOP)
    with pytest.raises(ValueError, match="two models would be named e5-small"):
        as_yaml(["e5-small", "intfloat/e5-small"], lambda: LAPTOP)


def test_the_file_is_a_config_like_any_other():
    with written(as_yaml(["e5-small", "acme/tiny"], lambda: LAPTOP)) as file:
        actual = read_config(file)
        assert (actual.host, actual.port, actual.tls) == (None, 8000, False)
    assert not file.exists()


@pytest.mark.parametrize(("available", "gpus"), [(True, 2), (False, 0)])
def test_gpus_that_only_the_driver_knows_do_not_count(tmp_path, monkeypatch, available, gpus):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    fake = f"def device_count(): return 2\ndef is_available(): return {available}\n"
    (tmp_path / "torch" / "cuda.py").write_text(fake)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert this_machine() == Machine(os.cpu_count(), gpus)
