"""What a constrained policy must respect, as a task declares it, and which draws respect it.

    relative   slack = s (c_k - c_b) + alpha |c_b|       c_k drawn outcome of the action, c_b of the baseline under the same draw
    absolute   slack = s (c_k - threshold)               s = 1 for `at_least`, -1 for `at_most`

An action respects a constraint where its slack is >= 0. For outcomes that are not negative the first line says c_k >= (1 - alpha) c_b, or
c_k <= (1 + alpha) c_b; for negative ones the allowance keeps its sign, so the baseline always respects a relative constraint.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.policies.outcome_models import Kind
from protos import config

__all__ = ["Baseline", "Constraint", "slack"]


class Constraint(config.StrictModel):
    """A bound on one outcome, relative to the baseline (`alpha`) or absolute (`threshold`)."""

    #: Name of the outcome, as in the section `rewards`; `reward` is the scalar reward itself.
    outcome: str
    #: `at_least`: more is safer, say reliability; `at_most`: less is, say a latency.
    direction: Literal["at_least", "at_most"] = "at_least"
    #: Share of the baseline's outcome, in [0, 1], that may be lost.
    alpha: float | None = pydantic.Field(default=None, ge=0.0, le=1.0)
    #: The bound itself, in the outcome's unit.
    threshold: float | None = None
    #: `logistic` for an outcome that is a success or a share of it (its update is not exact), `linear` for any other.
    model: Kind = "linear"

    @pydantic.model_validator(mode="after")
    def _bounds_once(self) -> "Constraint":
        if (self.alpha is None) == (self.threshold is None):
            raise ValueError(f"constraint on {self.outcome!r}: give `alpha`, relative to the baseline, or `threshold`, one of the two")
        return self


class Baseline(config.StrictModel):
    """What an action is compared with, and what plays where nothing is feasible: a fixed action, or a policy."""

    #: Id of the action; in a snapshot its place in the action table.
    action: str | int | None = None
    #: Name of a policy of the catalog.
    policy: str | None = None
    #: Settings of that policy.
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)
    #: Digest of a snapshot of that policy, with these settings, in the task's store: it stands still. Empty: the policy learns along.
    snapshot: str = pydantic.Field(default="", pattern="^([0-9a-f]{64})?$")

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> "Baseline":
        if (self.action is None) == (self.policy is None):
            raise ValueError("baseline: give `action`, one of the task's, or `policy`, with its settings, one of the two")
        if self.action is not None and (self.settings or self.snapshot):
            raise ValueError(f"baseline: action {self.action!r} has neither settings nor snapshot; drop them, or name a `policy`")
        return self


def slack(constraints: Sequence[Constraint], alpha: jax.Array, *, values: jax.Array, reference: jax.Array) -> jax.Array:
    """By how much each draw respects each constraint, as a share of its bound, f64[K, J, M]; below 0 = it does not.

    `alpha` f64[J], not read where a constraint is absolute; `values` f64[K, J, M] of the candidates; `reference` f64[J, M] of the
    baseline, under the same draws.
    """
    sign = _column([1.0 if one.direction == "at_least" else -1.0 for one in constraints])
    relative = _column([one.alpha is not None for one in constraints])
    bound = jnp.where(relative, reference, _column([one.threshold or 0.0 for one in constraints]))
    size = jnp.abs(bound)
    room = sign[None] * (values - bound[None]) + jnp.where(relative, alpha[:, None] * size, 0.0)[None]
    return room / jnp.where(size > 0.0, size, 1.0)[None]


def _column(numbers: Sequence[float | bool]) -> jax.Array:
    """One number a constraint, [J, 1]."""
    return jnp.asarray(np.asarray(numbers)[:, None])
