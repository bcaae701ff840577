"""Ray Serve's default autoscaling, for comparison: its own policy, factors and delays.

It counts requests, so the simulation has to say how many there are: the waiting tokens, and those in a
forward pass, divided by the tokens of a request.
"""

from __future__ import annotations

from collections import deque

from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    default_autoscaling_policy,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.core.lane import Lane
from deployments.core.planning.fluid import Fluid
from deployments.core.planning.simulation import Curve

TARGET = 2.0  # ongoing requests a replica: Ray's default
_ID = DeploymentID("encoder", "simulation")


class RayPolicy:
    """Ray's default policy and delays, with ``target`` ongoing requests a replica and 30 s of look-back.

    ``tokens_per_request`` has a value for each second, and a forward pass takes ``pass_s`` seconds.
    A request waits for half of a pass, and then is in one.
    """

    def __init__(
        self,
        least: int,
        most: int,
        tokens_per_request: Curve,
        pass_s: float,
        target: float = TARGET,
    ) -> None:
        """``least`` and ``most`` are bounds of the replicas; there is always at least one."""
        self._config = AutoscalingConfig(
            min_replicas=max(1, least), max_replicas=most, target_ongoing_requests=target
        )
        self._tokens_per_request, self._pass_s = tokens_per_request, pass_s
        self._recent: deque[float] = deque(maxlen=int(self._config.look_back_period_s))
        self._state: dict[str, object] = {}
        self._served = 0.0

    def __call__(self, fleet: Fluid) -> int:
        """Returns how many replicas to have."""
        self._recent.append(self._ongoing(fleet))
        context = self._context(fleet, sum(self._recent) / len(self._recent))
        desired, _ = default_autoscaling_policy(context)
        scaled = _apply_scaling_factors(desired, fleet.running, self._config)
        wanted: int
        wanted, self._state = _apply_delay_logic(
            max(0, scaled), fleet.replicas, self._config, self._state, fleet.now
        )
        least, most = int(self._config.min_replicas), int(self._config.max_replicas)
        return max(least, min(most, wanted))

    def _ongoing(self, fleet: Fluid) -> float:
        served, self._served = fleet.served[Lane.ONLINE] - self._served, fleet.served[Lane.ONLINE]
        tokens = fleet.waiting[Lane.ONLINE] + served * 1.5 * self._pass_s
        return tokens / float(self._tokens_per_request[int(fleet.now)])

    def _context(self, fleet: Fluid, ongoing: float) -> AutoscalingContext:
        return AutoscalingContext(
            deployment_id=_ID,
            deployment_name=_ID.name,
            app_name=_ID.app_name,
            current_num_replicas=fleet.running,
            target_num_replicas=fleet.replicas,
            running_replicas=[],
            total_num_requests=ongoing,
            total_queued_requests=None,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=self._config.min_replicas,
            capacity_adjusted_max_replicas=self._config.max_replicas,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=fleet.now,
            config=self._config,
        )
