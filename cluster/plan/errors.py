"""The errors of ``embedfleet plan``."""

from __future__ import annotations


class PlanError(Exception):
    """A plan cannot be made. The message names the option or the field, and what to do."""


class ImpossiblePlan(PlanError):
    """No number of replicas keeps the deadline or the budget. The message says what would."""
