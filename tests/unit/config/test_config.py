"""The args of `serve_config.yaml`: a wrong field is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from deployments.config.schema import AppArgs, Autoscaling, Limits, ModelConfig
from deployments.core.models.overrides import NO_OVERRIDES, Overrides
from deployments.core.models.prompts import Templates
from deployments.core.models.spec import Pooling, Side
from deployments.validation import explain

MODEL = "all-MiniLM-L6-v2"
SHIPPED = Path(__file__).parents[3] / "serve_config.yaml"


def args(**fields):
    return AppArgs.model_validate({"models": [{"name": MODEL}], **fields})


def model(**fields):
    return ModelConfig.model_validate({"name": MODEL, **fields})


def refusal(make, **fields):
    """Returns the place and the message of the first error."""
    with pytest.raises(ValidationError) as refused:
        make(**fields)
    error = refused.value.errors()[0]
    return ".".join(map(str, error["loc"])), error["msg"]


def test_a_name_is_enough():
    config = args()
    assert (config.models[0].name, config.models[0].replicas.fixed) == (MODEL, 1)
    assert (config.truncate, config.default_model, config.limits) == (False, None, Limits())


def test_the_shipped_config_is_valid():
    config = yaml.safe_load(SHIPPED.read_text())
    for application in config["applications"]:
        AppArgs.model_validate(application["args"])


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"modells": []}, "modells"),
        ({"model": MODEL}, "model"),
        ({"truncat": True}, "truncat"),
        ({"limits": {"max_text": 1}}, "limits.max_text"),
        ({"models": [{"name": MODEL, "num_gpu": 1}]}, "models.0.num_gpu"),
        ({"models": [{"name": MODEL}, {"name": "e5-small", "dtypes": "auto"}]}, "models.1.dtypes"),
    ],
)
def test_a_misspelt_field_is_refused_by_name(fields, place):
    assert refusal(args, **fields) == (place, "Extra inputs are not permitted")


def test_misspelt_autoscaling_is_refused_by_name():
    place, words = refusal(Autoscaling.model_validate, obj={"min_replicas": 0, "max_replica": 2})
    assert (place, words) == ("max_replica", "Extra inputs are not permitted")


@pytest.mark.parametrize(
    ("fields", "place", "words"),
    [
        ({"models": []}, "models", "at least 1"),
        ({"models": [{}]}, "models.0.name", "required"),
        ({"models": [{"name": ""}]}, "models.0.name", "at least 1"),
        ({"models": [{"name": "e5-smal"}]}, "models.0", "e5-small-v2"),
        ({"models": [{"name": "mine"}]}, "models.0", "set `path` to a folder or a hub id"),
        ({"models": [{"name": MODEL}] * 2}, "", f"named twice: {MODEL}"),
        ({"default_model": "e5-small"}, "", "'e5-small' is not among models"),
        ({"routers": 0}, "routers", "greater than or equal to 1"),
        ({"router_cpus": -1}, "router_cpus", "greater than or equal to 0"),
        ({"truncate": "perhaps"}, "truncate", "boolean"),
    ],
)
def test_a_wrong_app(fields, place, words):
    where, why = refusal(args, **fields)
    assert where == place
    assert words in why


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"dtype": "int8"}, "dtype"),
        ({"device": "gpu"}, "device"),
        ({"device": "cuda:x"}, "device"),
        ({"size": "tiny"}, "size"),
        ({"path": ""}, "path"),
        ({"num_gpus": -1}, "num_gpus"),
        ({"num_cpus": -0.5}, "num_cpus"),
        ({"threads": 0}, "threads.constrained-int"),
        ({"threads": "many"}, "threads.constrained-int"),
        ({"token_budget": 15}, "token_budget"),
        ({"resources": {"disk": "much"}}, "resources.disk"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": -1}, "replicas"),
        ({"replicas": {"min_replicas": 3, "max_replicas": 2}}, "replicas"),
        ({"replicas": {"max_replicas": 0}}, "replicas.max_replicas"),
    ],
)
def test_a_wrong_model(fields, place):
    assert refusal(model, **fields)[0] == place


@pytest.mark.parametrize("replicas", ["2", 2.0, True, None, []])
def test_a_number_of_replicas_must_be_a_whole_number(replicas):
    place, words = refusal(model, replicas=replicas)
    assert place == "replicas"
    assert "whole number" in words


def test_a_number_of_replicas_means_equal_bounds():
    replicas = model(replicas=3).replicas
    assert (replicas.min_replicas, replicas.max_replicas, replicas.fixed) == (3, 3, 3)
    assert model(replicas={"min_replicas": 1, "max_replicas": 3}).replicas.fixed is None


@pytest.mark.parametrize("fields", [{"threads": 2}, {"num_cpus": 2.5}])
def test_more_streams_than_threads(fields):
    assert model(streams=2, **fields).streams == 2
    assert "streams is above threads (2" in refusal(model, streams=3, **fields)[1]


def test_automatic_threads_are_not_known_before_the_node_is():
    assert model(streams=3, threads="auto").threads == "auto"


def test_streams_on_a_gpu_need_no_threads():
    assert model(streams=2, num_gpus=1).streams == 2


def test_a_replica_uses_one_gpu():
    assert "num_gpus is above 1" in refusal(model, num_gpus=2)[1]


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0"])
def test_an_assigned_gpu_is_the_first_that_a_replica_sees(device):
    assert model(device=device, num_gpus=1).device == device
    assert "device is cuda:1, but" in refusal(model, device="cuda:1", num_gpus=0.5)[1]


def test_offline_replicas_above_the_maximum():
    wrong = {"max_replicas": 2, "offline_max_replicas": 3}
    _, words = refusal(Autoscaling.model_validate, obj=wrong)
    assert "offline_max_replicas is above max_replicas" in words


def test_a_minimum_above_the_maximum():
    fields = {"min_replicas": 3, "max_replicas": 2}
    assert "min_replicas is above max_replicas" in refusal(Autoscaling, **fields)[1]


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices(device):
    assert model(device=device).device == device


@pytest.mark.parametrize(
    ("device", "num_gpus", "used"),
    [
        ("auto", 0, "cpu"),
        ("auto", 0.5, "auto"),
        ("cuda:1", 0, "cuda:1"),
        ("cpu", 1, "cpu"),
    ],
)
def test_a_gpu_that_ray_has_not_assigned_is_not_used(device, num_gpus, used):
    assert model(device=device, num_gpus=num_gpus).device_to_use == used


@pytest.mark.parametrize(
    ("field", "wrong"),
    [(field, 0) for field in Limits.model_fields] + [("cold_wait_s", 5.0), ("max_texts", -1)],
)
def test_limits_must_be_above_zero(field, wrong):
    assert refusal(Limits, **{field: wrong})[0] == field


@pytest.mark.parametrize(
    ("replicas", "cold"),
    [
        (1, False),
        (2, False),
        ({"min_replicas": 1, "max_replicas": 4}, False),
        ({"max_replicas": 4}, False),
        ({"min_replicas": 0, "max_replicas": 4}, True),
    ],
)
def test_only_a_model_that_scales_to_zero_can_be_cold(replicas, cold):
    assert model(replicas=replicas).can_be_cold is cold


@pytest.mark.parametrize(
    ("name", "deployment"),
    [
        (MODEL, "encoder-all-MiniLM-L6-v2"),
        ("acme/tiny_v1.5", "encoder-acme--tiny_v1.5"),
        ("a model:x#y", "encoder-a--model--x--y"),
    ],
)
def test_deployment_names(name, deployment):
    assert model(name=name, path="/models/x").deployment_name == deployment


@pytest.mark.parametrize("fields", [{"name": "acme/tiny"}, {"name": "mine", "path": "/models/x"}])
def test_models_of_the_users_own(fields):
    assert model(**fields).name == fields["name"]


def test_a_config_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError, match="frozen"):
        args().truncate = True


PINNED = "0123456789abcdef0123456789abcdef01234567"


def test_the_fields_that_decide_a_models_vectors():
    config = model(
        prompts={"query": "{instruction}: {text}", "document": "d: {text}", "instruction": "Find"},
        max_tokens=128,
        truncation_side="left",
        pooling="cls",
        normalize=False,
        dimensions=[64],
        trust_remote_code=True,
        revision=PINNED,
    )
    assert config.overrides == Overrides(
        prompts=Templates("{instruction}: {text}", "d: {text}", "Find"),
        max_tokens=128,
        truncation_side=Side.LEFT,
        pooling=Pooling.CLS,
        normalize=False,
        dimensions=(64,),
        trust_remote_code=True,
    )
    assert model().overrides == NO_OVERRIDES


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"prompts": {"query": "query: "}}, "prompts.query", "{text}"),
        ({"prompts": {"document": "{text} {text}"}}, "prompts.document", "{text}"),
        ({"prompts": {"document": "{instruction} {text}"}}, "prompts.document", "only queries"),
        ({"prompts": {"querry": "{text}"}}, "prompts.querry", "did you mean `query`?"),
        ({"prompts": {"query": "{instruction}{text}"}}, "prompts", "instruction is missing"),
        ({"prompts": {"query": "{text}", "instruction": "x"}}, "prompts", "no place"),
        ({"prompts": "query: {text}"}, "prompts", "must be fields"),
        ({"max_tokens": 0}, "max_tokens", "8"),
        ({"max_tokens": "many"}, "max_tokens", "whole number"),
        ({"truncation_side": "middle"}, "truncation_side", "left"),
        ({"pooling": "avg"}, "pooling", "mean"),
        ({"normalize": "perhaps"}, "normalize", "boolean"),
        ({"trust_remote_code": True}, "", "`revision`"),
        ({"trust_remote_code": True, "revision": "main"}, "", "`revision`"),
    ],
)
def test_a_bad_value_is_refused_by_field(fields, field, words):
    with pytest.raises(ValidationError) as refused:
        args(models=[{"name": MODEL, **fields}])
    problem = explain(refused.value, AppArgs)
    assert problem.field == ".".join(filter(None, ("models.0", field)))
    assert words in problem.message


@pytest.mark.parametrize("name", ["intfloat/E5-Small", "E5-SMALL", "qwen/qwen3-embedding-0.6b"])
def test_a_name_of_the_catalog_may_be_in_any_letter_case(name):
    assert model(name=name).name == name
