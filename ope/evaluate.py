"""Estimates from a stream of batches, by every estimator that the rows allow. Pure; memory grows with units, not with rows."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from ope.agreement import CrossCheck, companion
from ope.errors import RowsError
from ope.estimate import Estimate
from ope.estimators import CATALOG, FAMILIES, ON_POLICY, SLATE_ESTIMATORS, Estimator, estimator
from ope.impressions import DECISION, named, per
from ope.intervals import STUDENT_T, Interval
from ope.moments import Moments
from ope.paired import Comparison, paired
from ope.panel import Panel
from ope.rows import Batch, dealt

# Where every one of so many decisions has a reward above 0, decisions without one were most likely left out.
_MANY = 100
# More groups than there are rows.
_EACH_ROW = 1 << 63
_CHOSEN_BY_REWARD = (
    "every row has a reward above 0: if rows were chosen by having one, this is no mean per decision; keep the others, with reward 0"
)

__all__ = ["applicable", "compare", "evaluate", "on_policy_mean"]


def applicable(batch: Batch) -> list[str]:
    """Estimators that can be made of such rows: those whose arrays are there, and for slates those that take slates.

    Families, whose number is the reader's choice, are left out.
    """
    single = tuple(name for name in CATALOG if name not in SLATE_ESTIMATORS and name not in FAMILIES)
    names = SLATE_ESTIMATORS if batch.reward.shape[1] > 1 else single
    return [name for name in names if all(getattr(batch, array) is not None for array in CATALOG[name].needs)]


def evaluate(
    batches: Iterable[Batch],
    *,
    names: Sequence[str] = (),
    level: float = 0.05,
    interval: Interval = STUDENT_T,
    denominator: str = DECISION,
) -> dict[str, Estimate]:
    """Estimates by name over all batches; without `names`, all that are `applicable` to the first batch.

    Each is a mean per `denominator`, decision or impression (`ope.impressions`). Slates are always estimated under two assumptions, and a
    contradiction is among the reasons (`ope.agreement`). For an interval that looks at every unit, rows without a unit are dealt into
    groups (`ope.rows.dealt`).

    Raises RowsError for an unknown name, a missing array, a NaN, or no batch at all.
    """
    chosen = [named(estimator(name), denominator=denominator) for name in names]
    return _estimates(batches, chosen=chosen, level=level, interval=interval, denominator=denominator)


def compare(
    pairs: Iterable[tuple[Batch, Batch]],
    *,
    names: Sequence[str] = (),
    level: float = 0.05,
    interval: Interval = STUDENT_T,
    denominator: str = DECISION,
) -> dict[str, Comparison]:
    """Challenger and champion on the same rows, batch by batch, by every estimator named (or applicable to the first batch).

    Slates are compared under two assumptions, as in `evaluate`; the reasons stand at the difference. Raises RowsError as `evaluate`
    does, and where the two are not of the same rows.
    """
    chosen, moments, seen = [named(estimator(name), denominator=denominator) for name in names], list[Moments](), 0
    check: CrossCheck | None = None
    for both in pairs:
        challenger, champion = (_kept(batch, interval, first=seen) for batch in both)
        seen += len(challenger.reward)
        if check is None:
            chosen = _completed(chosen, challenger, denominator)
            check = CrossCheck(chosen)
        part = [paired(entry).moments(challenger, champion) for entry in chosen]
        moments = [paired(entry).merge(*two) for entry, *two in zip(chosen, moments, part, strict=True)] if moments else part
        check.add(challenger, champion)
    if check is None or not chosen:
        raise RowsError("rows: none were given; give a log with at least one row, and a weight or a reward model")
    found = {entry.name: paired(entry).finish(total, level, interval) for entry, total in zip(chosen, moments, strict=True)}
    doubts = check.doubts(interval=interval)
    return {name: each._replace(difference=_doubted(each.difference, doubts.get(name, ()))) for name, each in found.items()}


def on_policy_mean(batches: Iterable[Batch], *, level: float = 0.05, denominator: str = DECISION) -> Estimate:
    """Mean reward of the decisions (impressions) as logged: the value of the policy that logged them. Raises RowsError as `evaluate`."""
    return _estimates(batches, chosen=[named(ON_POLICY, denominator=denominator)], level=level)[ON_POLICY.name]


def _estimates(
    batches: Iterable[Batch], *, chosen: list[Estimator], level: float, interval: Interval = STUDENT_T, denominator: str = DECISION
) -> dict[str, Estimate]:
    panel, check, seen, lowest = Panel(chosen), CrossCheck(()), 0, math.inf
    for batch in batches:
        batch = _kept(batch, interval, first=seen)
        if not seen:
            chosen = _completed(chosen, batch, denominator)
            panel, check = Panel(chosen), CrossCheck(chosen)
        seen, lowest = seen + len(batch.reward), min(lowest, float(batch.reward.sum(axis=1).min(initial=math.inf)))
        panel.add(batch)
        check.add(batch)
    found = {entry.name: entry.finish(total, level, interval) for entry, total in zip(chosen, panel.moments(), strict=True)}
    chosen_by_reward = (_CHOSEN_BY_REWARD,) if lowest > 0 and seen >= _MANY else ()
    doubts = check.doubts(interval=interval)
    return {name: _doubted(each, doubts.get(name, ()) + chosen_by_reward) for name, each in found.items()}


def _kept(batch: Batch, interval: Interval, *, first: int) -> Batch:
    """The batch with units where the interval looks at every unit: groups of rows, or each row in its place."""
    if interval.ends is None:
        return batch
    return dealt(batch, first=first, groups=_EACH_ROW) if interval.by_row else dealt(batch, first=first)


def _completed(chosen: list[Estimator], batch: Batch, denominator: str) -> list[Estimator]:
    """Those chosen, or all that are applicable; for slates with an estimator of a second assumption."""
    if not chosen:
        every = (per(estimator(name), denominator=denominator) for name in applicable(batch))
        chosen = [entry for entry in every if entry is not None]
    beside = companion([entry.name for entry in chosen], batch)
    return chosen if beside is None else [*chosen, named(estimator(beside), denominator=denominator)]


def _doubted(estimate: Estimate, doubts: tuple[str, ...]) -> Estimate:
    return dataclasses.replace(estimate, reasons=estimate.reasons + doubts)
