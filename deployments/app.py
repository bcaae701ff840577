"""From the config to the bound graph that Ray Serve deploys: ``deployments.app:build``."""

# no postponed annotations here: Serve reads the type of `args` from the signature

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.config.schema import AppArgs, Autoscaling, Limits, ModelConfig
from deployments.replica.autoscaling import LOOK_BACK_S, POLICY, REPORT_EVERY_S
from deployments.replica.deployment import Encoder
from deployments.router.deployment import Router

# lanes bound what waits, in tokens; this only keeps Serve's own default of 5 out of the way
_CALLS_AT_A_REPLICA = 1_000
# a router counts them; what Serve held back in a queue of its own, it would not see
_REQUESTS_AT_A_ROUTER = 100_000
_LAST_ANSWER_S = 5.0  # to write it, once a request's own time is over


def build(args: AppArgs) -> Application:
    """Returns the router bound to one encoder deployment for each configured model."""
    return graph(args, Encoder)


def graph(args: AppArgs, encoder: type[Encoder]) -> Application:
    """As `build`, with replicas of this class."""
    handles = {model.name: _encoder(model, args.limits, encoder) for model in args.models}
    router = serve.deployment(
        Router,
        name="router",
        num_replicas=args.routers,
        max_surge_percent=_surge(args.routers),
        max_ongoing_requests=_REQUESTS_AT_A_ROUTER,
        graceful_shutdown_timeout_s=_patience_s(args.limits),
        ray_actor_options={"num_cpus": args.router_cpus},
    )
    return router.bind(args, handles)


def _encoder(model: ModelConfig, limits: Limits, kind: type[Encoder]) -> Application:
    encoder = serve.deployment(
        kind,
        name=model.deployment_name,
        max_ongoing_requests=_CALLS_AT_A_REPLICA,
        graceful_shutdown_timeout_s=_patience_s(limits),
        ray_actor_options=actor_options(model),
        max_surge_percent=_surge(model.replicas),
        **_scale(model),
    )
    return encoder.bind(model, limits)


def _patience_s(limits: Limits) -> float:
    """Returns how long a replica that is replaced has for what it was sent; Serve's default is 20 s."""
    return limits.request_timeout_s + _LAST_ANSWER_S


def actor_options(model: ModelConfig) -> dict[str, Any]:
    """Returns what a replica asks of its node, in Ray's terms."""
    options: dict[str, Any] = {"num_cpus": model.num_cpus, "num_gpus": model.num_gpus}
    if model.resources:
        options["resources"] = dict(model.resources)
    if model.accelerator_type:
        options["accelerator_type"] = model.accelerator_type
    if model.label_selector:
        options["label_selector"] = dict(model.label_selector)
    return options


def _surge(replicas: int | Autoscaling) -> int:
    """One replica is replaced by starting the new one first; several take turns, in their places."""
    return 100 if replicas == 1 or isinstance(replicas, Autoscaling) else 0


def _scale(model: ModelConfig) -> dict[str, Any]:
    if not isinstance(model.replicas, Autoscaling):
        return {"num_replicas": model.replicas}
    bounds = {"min_replicas", "max_replicas"}
    scaling = {
        **model.replicas.model_dump(include=bounds),
        "policy": {"policy_function": POLICY, "policy_kwargs": model.replicas.model_dump()},
        "metrics_interval_s": REPORT_EVERY_S,
        "look_back_period_s": LOOK_BACK_S,
        "upscale_delay_s": 0.0,  # the policy has its own
        "downscale_delay_s": 0.0,
    }
    return {"autoscaling_config": scaling}
