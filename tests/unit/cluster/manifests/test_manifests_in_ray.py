"""What Ray itself reads in the manifests: `ray up` its file, the autoscaler the RayService."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _generate_available_node_types_from_ray_cr_spec as node_types,
)
from ray.autoscaler._private.util import fillout_defaults, validate_config

from tests.support.manifests import documents, rayservice
from tests.unit.cluster.manifests.test_manifests import gpu_args

SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def launcher():
    (actual,) = documents("ray_up_aws.yaml")
    return actual


def test_it_is_what_ray_takes():
    jsonschema.validate(launcher(), SCHEMA)
    validate_config(fillout_defaults(launcher()))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(max_worker=1),
        lambda c: c["docker"].update(images="x"),
        lambda c: c["auth"].update(user="ubuntu"),
        lambda c: c["provider"]["security_group"].update(Name="x"),
        lambda c: c["available_node_types"]["cpu"].update(min_worker=1),
        lambda c: c["available_node_types"]["cpu"].pop("node_config"),
        lambda c: c.update(head_node_type="big"),
        lambda c: c.update(max_workers=1),
        lambda c: c.pop("provider"),
    ],
)
def test_what_is_wrong_is_refused(change):
    wrong = launcher()
    change(wrong)
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError)):
        validate_config(fillout_defaults(wrong))


def test_the_head_computes_nothing():
    assert launcher()["available_node_types"][launcher()["head_node_type"]]["resources"] == {
        "CPU": 0
    }


def test_a_node_has_one_gpu_of_a_type_that_a_model_asks_for():
    wanted = {f"accelerator_type:{model.accelerator_type}" for model in gpu_args().models}
    offered = set()
    for node in launcher()["available_node_types"].values():
        types = {name for name in node["resources"] if name.startswith("accelerator_type:")}
        assert len(types) == node["resources"].get("GPU", 0)
        offered |= types
    assert offered == wanted


def test_secrets_come_by_a_file_of_the_node():
    options = launcher()["docker"]["run_options"]
    assert [option for option in options if option.startswith("--env-file ")]
    for option in options:
        if option.startswith("--env "):
            assert option == "--env RAY_AUTH_MODE=token"


def test_the_autoscaler_knows_each_groups_resources_before_it_has_a_pod():
    actual = node_types(rayservice()["spec"]["rayClusterConfig"])
    resources = {name: node["resources"] for name, node in actual.items()}
    bounds = {name: (node["min_workers"], node["max_workers"]) for name, node in actual.items()}
    for group in resources.values():
        assert group.pop("memory") >= 8 * 2**30
    assert resources == {
        "headgroup": {"CPU": 0},
        "cpu": {"CPU": 8},
        "gpu-small": {"CPU": 6, "GPU": 1, "accelerator_type:L4": 1},
        "gpu-big": {"CPU": 8, "GPU": 1, "accelerator_type:H100": 1},
    }
    assert bounds == {"headgroup": (0, 0), "cpu": (0, 8), "gpu-small": (2, 8), "gpu-big": (0, 4)}
