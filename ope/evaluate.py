"""Estimates from a stream of batches, by every estimator that the rows allow. Pure; memory grows with units, not with rows."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from ope.estimate import Estimate
from ope.estimators import CATALOG, FAMILIES, ON_POLICY, SLATE_ESTIMATORS, Estimator, estimator
from ope.intervals import STUDENT_T, Interval
from ope.panel import Panel
from ope.rows import Batch, dealt

# Where every one of so many decisions has a reward above 0, decisions without one were most likely left out.
_MANY = 100
_CHOSEN_BY_REWARD = (
    "every row has a reward above 0: if rows were chosen by having one, this is no mean per decision; keep the others, with reward 0"
)

__all__ = ["applicable", "evaluate", "on_policy_mean"]


def applicable(batch: Batch) -> list[str]:
    """Estimators that can be made of such rows: those whose arrays are there, and for slates those that take slates.

    Families, whose number is the reader's choice, are left out.
    """
    single = tuple(name for name in CATALOG if name not in SLATE_ESTIMATORS and name not in FAMILIES)
    names = SLATE_ESTIMATORS if batch.reward.shape[1] > 1 else single
    return [name for name in names if all(getattr(batch, array) is not None for array in CATALOG[name].needs)]


def evaluate(
    batches: Iterable[Batch], *, names: Sequence[str] = (), level: float = 0.05, interval: Interval = STUDENT_T
) -> dict[str, Estimate]:
    """Estimates by name over all batches; without `names`, all that are `applicable` to the first batch.

    For an interval that looks at every unit, rows without a unit are dealt into groups (`ope.rows.dealt`).

    Raises RowsError for an unknown name, a missing array, a NaN, or no batch at all.
    """
    return _estimates(batches, chosen=[estimator(name) for name in names], level=level, interval=interval)


def on_policy_mean(batches: Iterable[Batch], *, level: float = 0.05) -> Estimate:
    """Mean reward of the decisions as logged: the value of the policy that logged them. Raises RowsError as `evaluate` does."""
    return _estimates(batches, chosen=[ON_POLICY], level=level)[ON_POLICY.name]


def _estimates(batches: Iterable[Batch], *, chosen: list[Estimator], level: float, interval: Interval = STUDENT_T) -> dict[str, Estimate]:
    panel, seen, lowest = Panel(chosen) if chosen else None, 0, math.inf
    for batch in batches:
        if interval.ends is not None:
            batch = dealt(batch, first=seen)
        seen, lowest = seen + len(batch.reward), min(lowest, float(batch.reward.sum(axis=1).min(initial=math.inf)))
        chosen = chosen or [estimator(name) for name in applicable(batch)]
        panel = panel or Panel(chosen)
        panel.add(batch)
    moments = (panel or Panel(chosen)).moments()
    found = {entry.name: entry.finish(total, level, interval) for entry, total in zip(chosen, moments, strict=True)}
    chosen_by_reward = (_CHOSEN_BY_REWARD,) if lowest > 0 and seen >= _MANY else ()
    return {name: dataclasses.replace(each, reasons=each.reasons + chosen_by_reward) for name, each in found.items()}
