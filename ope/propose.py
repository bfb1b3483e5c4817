"""Which weights of short-term outcomes to run next, so that a long-term one rises: round by round, by the search of `ope tune`. Pure.

A policy that maximises sum_j w_j y_j of short-term outcomes can be learned today (`bandits personalise`); what that does to an outcome
that takes months is told by running it. Each round runs the declared weights and some others as arms, and reads the long-term outcomes of
all. Outcomes drift from round to round, so an arm is known by its difference from the declared weights of the same round:

    objective(w) = mean of the arm - mean of the declared arm
    slack of a guardrail = lower 95 % bound of its distance from the bound

Proposals are those of the constrained search (`tune_search`); within a round each is made as if the ones before it had come out as
predicted, so that they lie apart.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pydantic

from ope.errors import RowsError
from ope.rows import Floats
from ope.tune_search import Tried, best_of, next_points, spread_points
from protos import config

__all__ = ["Bound", "Plan", "Proposal", "Result", "proposed", "tried_of", "weights_at"]

# One-sided 95 %.
_Z = 1.6448536269514722


class Bound(config.StrictModel):
    """What a long-term outcome's mean may not pass: one of the two, absolute or beside the declared arm of the same round."""

    at_least: float | None = None
    at_most: float | None = None
    #: true = the bound is of the difference from the declared arm.
    beside_declared: bool = False

    @pydantic.model_validator(mode="after")
    def _one(self) -> "Bound":
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give `at_least` or `at_most`, one of the two")
        return self


class Plan(config.StrictModel):
    """The file of `ope propose`."""

    #: The long-term outcome whose mean is to rise.
    objective: str
    #: Short-term outcomes, each with the smallest and the largest weight that is tried.
    weights: dict[str, tuple[float, float]]
    #: The weights that serve now; every round runs them too.
    declared: dict[str, float]
    #: Bounds of long-term outcomes.
    guardrails: dict[str, Bound] = pydantic.Field(default_factory=dict)
    #: Arms of a round beside the declared one, 1..20.
    arms: int = pydantic.Field(default=4, ge=1, le=20)
    #: Seed of the search.
    seed: int = pydantic.Field(default=0, ge=0)
    #: CSV or Parquet of what came of rounds so far, relative to this file; a file that is not there yet is a first round.
    results: str

    @pydantic.model_validator(mode="after")
    def _inside(self) -> "Plan":
        if not self.weights:
            raise ValueError("weights: none is named; name a short-term outcome with its range, such as `clicks: [0, 1]`")
        for name, (low, high) in self.weights.items():
            if not low < high:
                raise ValueError(f"weights.{name}: [{low:g}, {high:g}] is no range; give the smaller end first")
            if not low <= self.declared.get(name, math.nan) <= high:
                raise ValueError(
                    f"declared.{name}: {self.declared.get(name)} is not in [{low:g}, {high:g}]; widen the range, or declare it"
                )
        if unknown := set(self.declared) - set(self.weights):
            raise ValueError(f"declared: {sorted(unknown)[0]!r} has no range under `weights`")
        return self


class Result(NamedTuple):
    """What came of an arm: its round, its weights, and mean and standard error of each long-term outcome."""

    round: int
    weights: Mapping[str, float]
    mean: Mapping[str, float]
    error: Mapping[str, float]


class Proposal(NamedTuple):
    """`round`: the next one; `arms`: its weights, the declared ones first.

    `best`: the arm so far with the largest gain of those that keep their guardrails, its `gain` over the declared weights with the
    `error`; None before there is any.
    """

    round: int
    arms: tuple[Mapping[str, float], ...]
    best: Mapping[str, float] | None
    gain: float
    error: float


def proposed(plan: Plan, results: Sequence[Result]) -> Proposal:
    """The next round. Raises RowsError where a round lacks the declared arm, or an arm lies outside the ranges."""
    tried = tried_of(plan, results)
    if tried:
        points = next_points([one for one, _ in tried], plan.arms, seed=plan.seed + len(tried))
    else:
        points = spread_points(len(plan.weights), plan.arms, seed=plan.seed)
    arms = (dict(plan.declared), *(weights_at(plan, point) for point in points))
    best = best_of([one for one, _ in tried])
    error = next((error for one, error in tried if one is best), 0.0)
    following = 1 + max((each.round for each in results), default=0)
    gain = 0.0 if best is None else best.objective
    return Proposal(following, arms, None if best is None else weights_at(plan, best.point), gain, error)


def weights_at(plan: Plan, point: Floats) -> dict[str, float]:
    """The weights of a point of the unit cube, to four digits of their range."""
    ends = plan.weights.items()
    return {
        name: round(low + float(at) * (high - low), 4 - _digits(high - low)) for (name, (low, high)), at in zip(ends, point, strict=True)
    }


def tried_of(plan: Plan, results: Sequence[Result]) -> list[tuple[Tried, float]]:
    """Every arm as a point of the search, with the standard error of its gain. Raises RowsError as `proposed`."""
    declared = {each.round: each for each in results if _same(plan, each.weights)}
    found = []
    for each in results:
        if each.round not in declared:
            raise RowsError(
                f"results: round {each.round} has no row of the declared weights {dict(plan.declared)}; run them in every round"
            )
        base = declared[each.round]
        gain, error = _difference(each, base, plan.objective)
        slack = np.array([_slack(bound, each, base, name) for name, bound in plan.guardrails.items()])
        found.append((Tried(_point(plan, each.weights), gain, slack), error))
    return found


def _difference(arm: Result, base: Result, outcome: str) -> tuple[float, float]:
    if arm is base:
        return 0.0, 0.0
    return arm.mean[outcome] - base.mean[outcome], math.hypot(arm.error[outcome], base.error[outcome])


def _slack(bound: Bound, arm: Result, base: Result, outcome: str) -> float:
    value, error = _difference(arm, base, outcome) if bound.beside_declared else (arm.mean[outcome], arm.error[outcome])
    if bound.at_least is not None:
        return value - bound.at_least - _Z * error
    return (bound.at_most or 0.0) - value - _Z * error


def _point(plan: Plan, weights: Mapping[str, float]) -> Floats:
    point = np.array([(weights[name] - low) / (high - low) for name, (low, high) in plan.weights.items()])
    if np.any((point < -1e-9) | (point > 1.0 + 1e-9)):
        raise RowsError(f"results: weights {dict(weights)} lie outside the ranges {plan.weights}; widen them, or leave the arm out")
    return np.clip(point, 0.0, 1.0)


def _same(plan: Plan, weights: Mapping[str, float]) -> bool:
    return all(math.isclose(weights[name], value, rel_tol=1e-6, abs_tol=1e-9) for name, value in plan.declared.items())


def _digits(span: float) -> int:
    return math.floor(math.log10(span))
