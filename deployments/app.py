"""From the config to the bound graph that Ray Serve deploys: ``deployments.app:build``."""

# no postponed annotations here: Serve reads the type of `args` from the signature

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.batch_runner.deployment import NAME as BATCHES
from deployments.batch_runner.deployment import Batches
from deployments.config.schema import AppArgs, Autoscaling, Limits, ModelConfig
from deployments.replica.autoscaling import LOOK_BACK_S, POLICY, REPORT_EVERY_S
from deployments.replica.deployment import Encoder
from deployments.router.deployment import Router

# the lanes bound the waiting tokens; this only replaces Serve's default of 5
_CALLS_AT_A_REPLICA = 1_000
# the router bounds them itself, and would not see requests that Serve held back in a queue of its own
_REQUESTS_AT_A_ROUTER = 100_000
_LAST_ANSWER_S = 5.0  # to write the answer, once a request's own time is over


def build(args: AppArgs) -> Application:
    """Returns the router bound to one encoder deployment for each configured model."""
    return graph(args, Encoder)


def graph(args: AppArgs, encoder: type[Encoder]) -> Application:
    """Like `build`, with replicas of the class ``encoder``."""
    handles = {model.name: _encoder(model, args.limits, encoder) for model in args.models}
    router = serve.deployment(
        Router,
        name="router",
        num_replicas=args.routers,
        max_surge_percent=_surge(args.routers),
        max_ongoing_requests=_REQUESTS_AT_A_ROUTER,
        graceful_shutdown_timeout_s=_shutdown_timeout_s(args.limits),
        ray_actor_options={"num_cpus": args.router_cpus},
    )
    if args.batches is None:
        return router.bind(args, handles)
    return router.bind(args, handles, _batches(args, handles))


def _batches(args: AppArgs, handles: dict[str, Application]) -> Application:
    deployment = serve.deployment(
        Batches,
        name=BATCHES,
        num_replicas=1,
        max_surge_percent=0,  # two would wait for each other
        graceful_shutdown_timeout_s=_LAST_ANSWER_S,
        ray_actor_options={"num_cpus": 0},
    )
    return deployment.bind(args, handles)


def _encoder(model: ModelConfig, limits: Limits, encoder: type[Encoder]) -> Application:
    deployment = serve.deployment(
        encoder,
        name=model.deployment_name,
        max_ongoing_requests=_CALLS_AT_A_REPLICA,
        graceful_shutdown_timeout_s=_shutdown_timeout_s(limits),
        ray_actor_options=actor_options(model),
        max_surge_percent=_surge(model.replicas.fixed),
        **_scale(model.replicas),
    )
    return deployment.bind(model, limits)


def _shutdown_timeout_s(limits: Limits) -> float:
    """Returns how long a replica that is stopped may finish its calls; Serve's default is 20 s."""
    return limits.request_timeout_s + _LAST_ANSWER_S


def actor_options(model: ModelConfig) -> dict[str, Any]:
    """Returns the resources that a replica asks of its node, as Ray's options."""
    options: dict[str, Any] = {"num_cpus": model.num_cpus, "num_gpus": model.num_gpus}
    if model.resources:
        options["resources"] = dict(model.resources)
    if model.accelerator_type:
        options["accelerator_type"] = model.accelerator_type
    if model.label_selector:
        options["label_selector"] = dict(model.label_selector)
    return options


def _surge(fixed: int | None) -> int:
    """Returns the percentage of replicas that an update may start before it stops old ones.

    A model that has, or may have, one replica keeps answering while the new one starts. Several of a
    fixed number are replaced in turns and need no spare room.
    """
    return 100 if fixed is None or fixed == 1 else 0


def _scale(bounds: Autoscaling) -> dict[str, Any]:
    """Returns Serve's options for the number of replicas."""
    if bounds.fixed is not None:
        return {"num_replicas": bounds.fixed}
    scaling = {
        "min_replicas": bounds.min_replicas,
        "max_replicas": bounds.max_replicas,
        "policy": {"policy_function": POLICY, "policy_kwargs": bounds.model_dump()},
        "metrics_interval_s": REPORT_EVERY_S,
        "look_back_period_s": LOOK_BACK_S,
        "upscale_delay_s": 0.0,  # the policy has its own delays
        "downscale_delay_s": 0.0,
    }
    return {"autoscaling_config": scaling}
