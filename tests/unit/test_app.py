"""From the config to the graph that Serve deploys, without starting anything."""

from __future__ import annotations

import pytest

from deployments.app import actor_options, build
from deployments.config.schema import AppArgs, ModelConfig
from deployments.replica.autoscaling import POLICY
from deployments.router.chooser import candidate

MINILM = "all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {"num_cpus": 1, "num_gpus": 0}),
        ({"num_cpus": 0.1, "num_gpus": 0.5}, {"num_cpus": 0.1, "num_gpus": 0.5}),
        ({"resources": {"disk": 2}}, {"num_cpus": 1, "num_gpus": 0, "resources": {"disk": 2}}),
        (
            {"num_gpus": 1, "label_selector": {"gpu": "in(h100,h200)"}},
            {"num_cpus": 1, "num_gpus": 1, "label_selector": {"gpu": "in(h100,h200)"}},
        ),
        (
            {"num_gpus": 1, "accelerator_type": "A100"},
            {"num_cpus": 1, "num_gpus": 1, "accelerator_type": "A100"},
        ),
    ],
)
def test_a_replicas_resources(fields, options):
    assert actor_options(ModelConfig(name=MINILM, **fields)) == options


def deployments_of(application):
    """Returns the deployments of a bound graph, the ingress first."""
    bound = application._bound_deployment
    _, handles = bound.init_args
    return [bound, *(handle._bound_deployment for handle in handles.values())]


def test_one_deployment_for_each_model_and_one_for_the_router():
    models = [{"name": MINILM, "replicas": 3, "num_cpus": 0.5}, {"name": "e5-small"}]
    args = AppArgs.model_validate({"models": models, "routers": 2, "router_cpus": 0.25})
    router, first, second = deployments_of(build(args))
    assert [d.name for d in (router, first, second)] == [
        "router",
        "encoder-all-MiniLM-L6-v2",
        "encoder-e5-small",
    ]
    assert [d.num_replicas for d in (router, first, second)] == [2, 3, 1]
    assert router.ray_actor_options["num_cpus"] == 0.25
    assert first.ray_actor_options["num_cpus"] == 0.5


def test_the_router_needs_no_free_core():
    router, _ = deployments_of(build(AppArgs.model_validate({"models": [{"name": MINILM}]})))
    assert router.ray_actor_options["num_cpus"] == 0


def test_replicas_between_bounds():
    replicas = {"min_replicas": 0, "max_replicas": 4}
    args = AppArgs.model_validate({"models": [{"name": MINILM, "replicas": replicas}]})
    [_, encoder] = deployments_of(build(args))
    scaling = encoder._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 4)
    assert scaling.policy.get_policy() is not None
    assert scaling.policy.policy_function == POLICY
    assert scaling.policy.policy_kwargs["downscale_delay_s"] == 60


def test_a_replica_that_is_stopped_has_the_time_of_a_request():
    args = AppArgs.model_validate(
        {"models": [{"name": MINILM}], "limits": {"request_timeout_s": 90}}
    )
    for deployment in deployments_of(build(args)):
        assert deployment._deployment_config.graceful_shutdown_timeout_s > 90


@pytest.mark.parametrize(
    ("fields", "repo", "size"),
    [
        ({"name": MINILM}, "sentence-transformers/all-MiniLM-L6-v2", "small"),
        ({"name": MINILM, "size": "large"}, "sentence-transformers/all-MiniLM-L6-v2", "large"),
        ({"name": "acme/tiny"}, "acme/tiny", None),
        ({"name": "tiny", "path": "acme/tiny", "size": "medium"}, "acme/tiny", "medium"),
    ],
)
def test_a_configured_model_as_the_policy_sees_it(fields, repo, size):
    model = candidate(ModelConfig.model_validate(fields))
    assert (model.name, model.repo, model.size) == (fields["name"], repo, size)


@pytest.mark.parametrize(
    ("replicas", "percent"),
    [
        (1, 100),  # the new one starts first
        (3, 0),  # they take turns
        ({"min_replicas": 3, "max_replicas": 3}, 0),
        ({"min_replicas": 0, "max_replicas": 4}, 100),  # there may be one
    ],
)
def test_a_single_replica_is_replaced_only_once_the_new_one_runs(replicas, percent):
    args = AppArgs.model_validate({"models": [{"name": MINILM, "replicas": replicas}]})
    [_, encoder] = deployments_of(build(args))
    assert encoder._deployment_config.max_surge_percent == percent


@pytest.mark.parametrize("replicas", [3, {"min_replicas": 3, "max_replicas": 3}])
def test_equal_bounds_are_a_fixed_number(replicas):
    args = AppArgs.model_validate({"models": [{"name": MINILM, "replicas": replicas}]})
    [_, encoder] = deployments_of(build(args))
    assert encoder.num_replicas == 3
    assert encoder._deployment_config.autoscaling_config is None
