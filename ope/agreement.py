"""Do estimators that assume different things of a slate agree on the same rows? Pure.

Under both assumptions two estimators have one mean, so their difference is noise, and its error is that of the PAIRED difference: the
influence of a unit is its influence on the one less its influence on the other,

    psi_u = psi_u(first) - psi_u(second),      for two policies   psi_u(first, challenger) - psi_u(first, champion) - ...

clustered by unit. sqrt(s1^2 + s2^2) would be far too wide, for both estimators have most of their noise in common. A difference beyond
that error says that an assumption fails: a reason to hold.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ope.diagnostics import slot_weights
from ope.estimate import DOUBTFUL_ESS, Estimate, contrast_of
from ope.estimators import CATALOG, Estimator, estimator
from ope.intervals import STUDENT_T, Interval
from ope.moments import Moments, Terms, gather, merge
from ope.rows import Batch

__all__ = ["FALSE_ALARM", "Agreement", "CrossCheck", "agreement", "apart", "companion", "contradiction"]

# Probability that estimators whose assumptions hold are named, over all pairs of one run.
FALSE_ALARM = 0.01
# Weights that are short of 1 by so many standard errors do not contradict: sound ones are once in 44 times, and then a look is lost.
_SHORT_Z = 2.0
# What estimators assume of a slate, the weakest first; each is compared with the first that was run.
_ASSUMPTIONS = (("sips", "snsips"), ("rips", "snrips", "cascade_dr"), ("pseudo_inverse",), ("iips", "sniips"))

_ALONE = "no second assumption can be checked on these rows: they have one kind of weight; hold, or map weights of another kind"


class Agreement(NamedTuple):
    """The difference of two estimators of the same rows, `first` the one that assumes more."""

    first: str
    second: str
    # One policy's batch, or challenger's and champion's -> moments: first and then second, for each policy in turn.
    moments: Callable[..., Moments]
    merge: Callable[[Moments, Moments], Moments]


def agreement(first: Estimator, second: Estimator) -> Agreement:
    """The comparison of two estimators of the catalog."""

    def moments(*policies: Batch) -> Moments:
        sides = [entry.terms(batch) for entry in (first, second) for batch in policies]
        return gather(_alike(sides), unit=policies[0].unit)

    return Agreement(first.name, second.name, moments, merge)


def companion(names: Sequence[str], batch: Batch) -> str | None:
    """The estimator that must be run beside `names` for a second assumption: None where one is, or where the rows allow none."""
    kinds = _kinds(names)
    if batch.reward.shape[1] == 1 or len(kinds) != 1:
        return None
    others = [together[0] for together in _ASSUMPTIONS if kinds[0][0] not in together]
    return next((name for name in others if all(getattr(batch, array) is not None for array in CATALOG[name].needs)), None)


class CrossCheck:
    """Each assumption that the chosen estimators make of slates against the weakest of them, over all rows that are added."""

    def __init__(self, chosen: Sequence[Estimator]) -> None:
        by_name = {entry.name: entry for entry in chosen}
        self._kinds = _kinds(list(by_name))
        entries = [by_name[together[0]] for together in self._kinds]
        self._checks = [agreement(other, entries[0]) for other in entries[1:]]
        self._moments: list[Moments] = []
        self._slates = False

    def add(self, *policies: Batch) -> None:
        """Adds rows under one policy, or under challenger and champion; slates of one slot need no check."""
        self._slates = self._slates or policies[0].reward.shape[1] > 1
        if self._slates:
            part = [check.moments(*policies) for check in self._checks]
            self._moments = [merge(old, new) for old, new in zip(self._moments, part, strict=True)] if self._moments else part

    def doubts(self, *, interval: Interval) -> dict[str, tuple[str, ...]]:
        """By name of an estimator, why to hold: another contradicts it, or there is none to check what it assumes.

        By `interval` where it holds at every look, by Student's t otherwise.
        """
        if not self._slates:
            return {}
        if not self._checks:
            return {name: (_ALONE,) for together in self._kinds for name in together}
        found: dict[str, tuple[str, ...]] = {}
        by = interval if interval.at_every_look else STUDENT_T
        for check, moments, together in zip(self._checks, self._moments, self._kinds[1:], strict=True):
            said = contradiction(moments, (check.first, check.second), level=FALSE_ALARM / len(self._checks), interval=by)
            for name in (*together, *self._kinds[0]) if said else ():
                found[name] = (*found.get(name, ()), f"{said}: hold")
        return found


def _kinds(names: Sequence[str]) -> list[list[str]]:
    """The names by what they assume of a slate, the weakest assumption first; names that assume nothing of slates are left out."""
    found = [[name for name in names if name in together] for together in _ASSUMPTIONS]
    return [together for together in found if together]


def apart(moments: Moments, *, level: float, interval: Interval = STUDENT_T) -> Estimate:
    """First less second, for two policies the difference of those; `level` in (0, 0.5)."""
    policies = len(moments.weight_square) // 2
    signs = np.outer([1.0, -1.0], [1.0, -1.0][:policies]).ravel()
    return contrast_of(moments, signs=signs.tolist(), level=level, interval=interval)


def contradiction(
    moments: Moments, names: tuple[str, str], *, level: float = FALSE_ALARM, interval: Interval = STUDENT_T, least_ess: float = DOUBTFUL_ESS
) -> str | None:
    """A sentence if the two differ by more than their joint error allows at `level`; None if not, or if either cannot speak.

    An estimator cannot speak with fewer than `least_ess` effective rows in the slots that carry its value; nor one whose weights there
    fall short of 1, because rare large ones are still to come: it is too low, and its error does not know.
    """
    policies = range(len(moments.weight_square))
    slots = [slot for policy in policies for slot in slot_weights(moments, policy) if slot.carries]
    found = apart(moments, level=level, interval=interval)
    # Estimators that are the same number on these rows differ by rounding.
    told = abs(found.value) > 1e-12 and (found.lower > 0 or found.upper < 0)
    if not told or any(slot.effective_sample_size < least_ess or slot.mean_z < -_SHORT_Z for slot in slots):
        return None
    first, second = names
    return (
        f"{first} and {second} contradict each other: {first} is {found.value:+.4g} from {second} on the same rows, {_errors(found)}. "
        f"What {first} assumes ({estimator(first).assumption}) seems to fail"
    )


def _errors(found: Estimate) -> str:
    if not found.standard_error:
        return "without any error"
    return f"{abs(found.value) / found.standard_error:.1f} times their joint error of {found.standard_error:.2g}"


def _alike(sides: Sequence[Terms]) -> list[Terms]:
    """The same terms with as many slots each: the added ones repeat the last weight and have no value (see `ope.rows`)."""
    slots, normalised = max(side.weight.shape[1] for side in sides), any(side.normalised is not None for side in sides)

    def wide(values: np.ndarray, fill: str) -> np.ndarray:
        missing = ((0, 0), (0, slots - values.shape[1]))
        return np.pad(values, missing, mode="edge") if fill == "edge" else np.pad(values, missing)

    found = []
    for side in sides:
        parts = None
        if normalised:
            parts = np.zeros((len(side.numerator), slots)) if side.normalised is None else wide(side.normalised, "zero")
        found.append(Terms(side.numerator, side.denominator, wide(side.weight, "edge"), wide(side.slot_value, "zero"), parts))
    return found
