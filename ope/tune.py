"""Tunes the numbers of a constrained policy on a log: Bayesian optimisation, off-policy estimates as objective, guardrails as constraints.

Every trial learns from the first half of the log and is estimated on the next quarter. The best that keeps its guardrails there, by the
lower end of each slack's interval, is judged beside the declared settings on the last quarter, which no trial has seen: the search picks
what looks best, so its own estimates are too good.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bandits.catalog import PolicySpec, build
from bandits.config import TaskPolicy
from bandits.outcomes import REWARD
from bandits.policies.constrained import ConstrainedSettings, Numbers
from bandits.policies.constraints import Constraint
from bandits.programs import run_numerators, run_prepare, update_program
from bandits.training import absorb
from bandits.trials import Trials
from ope.errors import RowsError
from ope.estimate import Estimate, difference_of
from ope.estimators import estimator
from ope.intervals import STUDENT_T
from ope.moments import gather
from ope.rows import Floats
from ope.tune_log import Part, TuningLog
from ope.tune_search import Tried, best_of, next_point, spread_points
from ope.tune_space import Space, settings_at, space_of

__all__ = ["Goal", "Judged", "Tuning", "baseline_numerators", "judged", "tune"]

# Points that are spread evenly before the search begins, beside the declared one.
_SPREAD = 8


class Goal(NamedTuple):
    """`metric` is to rise while every guardrail holds, each beside the baseline or absolute; `estimator` of single actions or slates."""

    metric: str
    guardrails: tuple[Constraint, ...]
    estimator: str
    # Probability that an interval misses, in (0, 0.5).
    level: float

    @property
    def metrics(self) -> tuple[str, ...]:
        """Everything that is estimated."""
        return tuple(dict.fromkeys([self.metric, *(one.outcome for one in self.guardrails)]))


class Judged(NamedTuple):
    """What a policy comes to on one part of the log: the objective, and the slack of each guardrail in its outcome's unit (>= 0 = kept)."""

    objective: Estimate
    slack: tuple[Estimate, ...]

    @property
    def kept(self) -> bool:
        """Does the lower end of every slack pass?"""
        return all(one.lower >= 0.0 for one in self.slack)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What came of it. `chosen` is None where no trial kept its guardrails; estimates are of the rows that no trial has seen."""

    settings: ConstrainedSettings | None
    declared: Judged
    chosen: Judged | None
    # Objective of the chosen less that of the declared settings, on the same rows.
    gain: Estimate | None
    trials: tuple[Tried, ...]


def tune(
    log: TuningLog,
    task: TaskPolicy,
    settings: ConstrainedSettings,
    goal: Goal,
    *,
    state: Any,
    trials: int,
    largest_alpha: float,
    seed: int,
    watch: Callable[[Sequence[Tried]], None] = lambda tried: None,
) -> Tuning:
    """The best numbers found in `trials` trials; `watch` is told after each. `state`: what a learner of the task starts from.

    Raises RowsError where the settings have no number to tune.
    """
    space = space_of(settings, values=_axes_of(log, settings), largest_alpha=largest_alpha)
    if space.size == 0:
        raise RowsError("policy.settings: no relative constraint and no reward table, so there is nothing to tune; declare one of them")
    runs = Trials(task.spec, state=state, training=log.teaches)
    baselines = [baseline_numerators(log, part, task, settings, state=state) for part in (log.compares, log.judges)]

    def score(numbers: Numbers, part: int) -> tuple[np.ndarray, Judged]:
        where = (log.compares, log.judges)[part]
        numerators = runs.numerators(numbers, where.requests, where.slates)
        return numerators, judged(where, numerators, baselines[part], goal)

    tried: list[Tried] = []
    for point in _points(space, tried, trials, seed):
        _, came = score(_rounded(space, point), 0)
        tried.append(Tried(point, came.objective.value, np.array([one.lower for one in came.slack])))
        watch(tried)
    best = best_of(tried)
    before, declared = score(Numbers.of(settings), 1)
    if best is None:
        return Tuning(None, declared, None, None, tuple(tried))
    after, chosen = score(_rounded(space, best.point), 1)
    gain = _difference(log.judges, after, before, goal, metric=goal.metric)
    return Tuning(settings_at(space, best.point), declared, chosen, gain, tuple(tried))


def judged(part: Part, numerators: np.ndarray, baseline: np.ndarray, goal: Goal) -> Judged:
    """Estimates of a policy with these conditional numerators, u32[n, L]; `baseline`: those of the baseline."""
    objective = _value(part, numerators, goal, metric=goal.metric)
    return Judged(objective, tuple(_slack(part, numerators, baseline, goal, one) for one in goal.guardrails))


def baseline_numerators(log: TuningLog, part: Part, task: TaskPolicy, settings: ConstrainedSettings, *, state: Any) -> np.ndarray:
    """What the baseline gives the logged slates of a part: its action alone, or its policy, standing still or taught by the first half."""
    declared, dims = settings.baseline, task.spec.dims
    if declared.policy is None:
        alone = [float(place == declared.action) for place in range(dims.actions)]
        spec = PolicySpec.of("fixed", {"probabilities": alone}, floor=0.0, dims=dims)
        own = build(spec).init()
    else:
        spec = PolicySpec.of(declared.policy, declared.settings, floor=0.0, dims=dims)
        own = state.baseline if declared.snapshot else absorb(update_program(spec), build(spec).init(), log.teaches)
    return run_numerators(spec, run_prepare(spec, own), part.requests, part.slates).numerators


def _points(space: Space, tried: Sequence[Tried], trials: int, seed: int) -> Iterator[Floats]:
    """The declared point, a spread, then what the search asks for."""
    yield space.origin()
    yield from spread_points(space.size, min(_SPREAD, trials - 1), seed=seed)
    while len(tried) < trials:
        yield next_point(tried, seed=seed + len(tried))


def _rounded(space: Space, point: Floats) -> Numbers:
    """The numbers of a point as its settings would hold them, so that what is judged is what is written."""
    return Numbers.of(settings_at(space, point))


def _axes_of(log: TuningLog, settings: ConstrainedSettings) -> Floats:
    """Outcomes of the teaching rows in the order of the table's axes, f64[n, axes]."""
    table, rows = settings.reward, log.teaches
    names = () if table is None else table.outcomes
    columns = [rows.reward if name == REWARD else rows.outcomes[:, settings.outcomes.index(name)] for name in names]
    return np.stack(columns, axis=1) if columns else np.zeros((len(rows.reward), 0))


def _value(part: Part, numerators: np.ndarray, goal: Goal, *, metric: str) -> Estimate:
    chosen = estimator(goal.estimator)
    return chosen.finish(chosen.moments(part.batch(numerators, metric=metric)), goal.level)


def _difference(part: Part, one: np.ndarray, other: np.ndarray, goal: Goal, *, metric: str, factor: float = 1.0) -> Estimate:
    """Value of the one less `factor` times that of the other, on the same rows."""
    chosen = estimator(goal.estimator)
    mine, theirs = (chosen.terms(part.batch(numerators, metric=metric)) for numerators in (one, other))
    theirs = theirs._replace(numerator=factor * theirs.numerator, slot_value=factor * theirs.slot_value)
    return difference_of(gather([mine, theirs], unit=part.unit), level=goal.level, interval=STUDENT_T)


def _slack(part: Part, numerators: np.ndarray, baseline: np.ndarray, goal: Goal, guardrail: Constraint) -> Estimate:
    """By how much a guardrail holds."""
    sign = 1.0 if guardrail.direction == "at_least" else -1.0
    if guardrail.alpha is None:
        bound = guardrail.threshold or 0.0
        return _turned(_value(part, numerators, goal, metric=guardrail.outcome), sign, less=bound)
    factor = 1.0 - sign * guardrail.alpha
    return _turned(_difference(part, numerators, baseline, goal, metric=guardrail.outcome, factor=factor), sign)


def _turned(estimate: Estimate, sign: float, *, less: float = 0.0) -> Estimate:
    """sign (estimate - less)."""
    ends = sorted((sign * (estimate.lower - less), sign * (estimate.upper - less)))
    return dataclasses.replace(estimate, value=sign * (estimate.value - less), lower=ends[0], upper=ends[1])
