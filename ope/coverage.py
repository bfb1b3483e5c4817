"""How often the intervals hold, on simulated logs whose truth is known (`ope.coverage_worlds`). Pure, vectorised over replications.

The terms of all replications are made in one call of the estimator; what follows is the delta method of `ope.estimate`, many logs at
once, and the intervals of `ope.intervals` and `ope.resampling` as they are. The paired difference is the target's value
less that of the policy that logged the rows (of the first, fixed one where the logging policy changes).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ope.coverage_worlds import DESIGNS, Design, draw, truth
from ope.errors import RowsError
from ope.estimate import values_and_gradients
from ope.estimators import estimator
from ope.intervals import STUDENT_T, Evidence, Interval, sequential
from ope.moments import Terms
from ope.resampling import EMPIRICAL_LIKELIHOOD, poisson_bootstrap
from ope.rows import Floats

__all__ = ["ESTIMATORS", "Covered", "coverage"]

ESTIMATORS = ("ips", "snips", "dm", "dr", "sndr", "switch_dr")
# Intervals that look at every unit cost a search or many replicates each, so they are asked of these.
_SEARCHED = ("snips", "dr")
# Rows in memory at once.
_ROWS = 200_000
_REPLICATES = 400
# Logs of a design that they are asked of at most, plus what is left of a block.
_SEARCHED_LOGS = 200


class Covered(NamedTuple):
    """How one interval did."""

    design: str
    # "value", or "difference" from the champion on the same rows.
    of: str
    estimator: str
    interval: str
    replications: int
    # Share of the replications whose interval held the truth, the standard error of that share, and the mean width.
    coverage: float
    error: float
    width: float
    # Of the estimate, and its bias, in the metric's unit.
    root_mean_square: float
    bias: float
    # Mean effective sample size, in rows.
    effective_sample_size: float


class _Run(NamedTuple):
    """Ends of one interval in some replications, with what they are judged by."""

    value: Floats
    lower: Floats
    upper: Floats


def coverage(
    designs: Sequence[str],
    *,
    replications: int = 2_000,
    level: float = 0.05,
    seed: int = 0,
    names: Sequence[str] = ESTIMATORS,
    advance: Callable[[int], None] = lambda done: None,
) -> Iterator[Covered]:
    """How the intervals at `level` did in so many replications of each design; `advance` is told the replications done.

    Raises RowsError for an unknown design.
    """
    for name in designs:
        if name not in DESIGNS:
            raise RowsError(f"design {name!r} is unknown; known: {', '.join(DESIGNS)}")
        yield from _of_design(name, replications, level, np.random.default_rng([seed, list(DESIGNS).index(name)]), names, advance)


def _of_design(
    name: str, replications: int, level: float, rng: np.random.Generator, names: Sequence[str], advance: Callable[[int], None]
) -> Iterator[Covered]:
    design, at_once = DESIGNS[name], max(1, _ROWS // DESIGNS[name].rows)
    target, champion = truth(design, rng=rng)
    right = {"value": target, "difference": target - champion}
    runs: dict[tuple[str, str, str], list[_Run]] = {}
    sizes: list[Floats] = []
    for start in range(0, replications, at_once):
        count = min(at_once, replications - start)
        logs = draw(design, replications=count, rng=rng)
        sizes.append(_effective(logs.target.weight, count))
        for entry in names:
            sides = [_numbers(estimator(entry).terms(batch), design, count) for batch in logs]
            for of, taken in (("value", sides[:1]), ("difference", sides)):
                found = _Sides(entry, taken, design, level)
                for kind, run in (*_by_error(found), *(_searched(found) if start < _SEARCHED_LOGS and entry in _SEARCHED else ())):
                    runs.setdefault((of, entry, kind), []).append(run)
        advance(count)
    for (of, entry, kind), parts in runs.items():
        run = _Run(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        yield _judged(name, of, entry, kind, run, right[of], np.concatenate(sizes))


def _judged(name: str, of: str, entry: str, kind: str, run: _Run, right: float, sizes: Floats) -> Covered:
    held = (run.lower <= right) & (right <= run.upper)
    share, count = float(held.mean()), len(held)
    return Covered(
        name,
        of,
        entry,
        kind,
        count,
        share,
        math.sqrt(share * (1 - share) / count),
        float((run.upper - run.lower).mean()),
        float(np.sqrt(((run.value - right) ** 2).mean())),
        float((run.value - right).mean()),
        float(sizes.mean()),
    )


def _effective(weight: Floats | None, count: int) -> Floats:
    assert weight is not None
    by_log = weight.reshape(count, -1)
    return np.asarray(by_log.sum(axis=1) ** 2 / (by_log**2).sum(axis=1))


def _numbers(terms: Terms, design: Design, count: int) -> Floats:
    """What each row of each unit of each replication gives, f64[R, u, rows, C]."""
    parts = [terms.numerator[:, None], terms.denominator[:, None], terms.weight - 1]
    numbers = np.concatenate([*parts, *([] if terms.normalised is None else [terms.normalised])], axis=1)
    return numbers.reshape(count, design.units, design.rows_of_a_unit, -1)


class _Sides:
    """The value of one policy, or of the first less the second, in R replications; with how rows and units move it."""

    def __init__(self, entry: str, numbers: list[Floats], design: Design, level: float) -> None:
        self.slots, self.level, self.design = 0 if entry == "dm" else 1, level, design
        self.totals = np.stack([rows.sum(axis=2) for rows in numbers], axis=2)
        self.value, self.by_row = np.zeros(len(self.totals)), np.zeros(numbers[0].shape[:3])
        for side, (rows, sign) in enumerate(zip(numbers, (1.0, -1.0), strict=False)):
            values, gradients = values_and_gradients(self.totals[:, :, side].sum(axis=1), slots=self.slots)
            self.value = self.value + sign * values
            self.by_row = self.by_row + sign * np.einsum("rumc,rc->rum", rows, gradients)
        self.by_unit = self.by_row.sum(axis=2)

    def statistic(self, resampled: Floats) -> Floats:
        """Values of resampled totals, f64[B, sides, C]."""
        values = [values_and_gradients(resampled[:, side], slots=self.slots)[0] for side in range(resampled.shape[1])]
        return values[0] if len(values) == 1 else np.asarray(values[0] - values[1])


def _error(influence: Floats) -> Floats:
    count = influence.shape[1]
    return np.asarray(np.sqrt((influence**2).sum(axis=1) * count / (count - 1)))


def _by_error(sides: _Sides) -> Iterator[tuple[str, _Run]]:
    """(interval, its ends in each replication) of the intervals that are a multiple of the standard error."""
    units, rows = sides.design.units, sides.design.rows
    kinds = [(STUDENT_T.kind, STUDENT_T, sides.by_unit), ("asymptotic confidence sequence", sequential(tuned_for=units), sides.by_unit)]
    if rows > units:
        # Known to be wrong, so that one sees what clustering is for.
        kinds.append(("student-t, rows taken as independent", STUDENT_T, sides.by_row.reshape(len(sides.value), -1)))
    for kind, interval, influence in kinds:
        half = _error(influence) * interval.half_width(influence.shape[1], sides.level)
        yield kind, _Run(sides.value, sides.value - half, sides.value + half)


def _searched(sides: _Sides) -> Iterator[tuple[str, _Run]]:
    """The same of the intervals that look at every unit."""
    error, key = _error(sides.by_unit), np.arange(sides.design.units, dtype=np.uint64)
    kinds: list[Callable[[int], Interval]] = [
        lambda log: EMPIRICAL_LIKELIHOOD,
        # Units of another log are other units: without a seed of its own, every log would be resampled alike.
        lambda log: poisson_bootstrap(replicates=_REPLICATES, seed=log),
    ]
    for kind in kinds:
        found = []
        for log, value in enumerate(sides.value):
            evidence = Evidence(float(value), float(error[log]), sides.by_unit[log], key, sides.totals[log], sides.statistic)
            ends = kind(log).ends
            assert ends is not None
            found.append(ends(evidence, sides.level))
        lower, upper = np.array(found).T
        yield kind(0).kind, _Run(sides.value, lower, upper)
