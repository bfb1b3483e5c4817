"""The catalog of estimators: each is `moments(batch) -> M`, `merge(M, M) -> M`, `finish(M, level) -> Estimate`.

Every value is a sum of ratios of totals over rows; what a row gives is in `ope.single_actions` and `ope.slates`. A name may carry the
number that tames its weights, `clipped_ips:5`, or how to choose that number on the log itself, `clipped_ips:slope` (`ope.tuning`).
Other packages add entries through the entry points of the group `slateloop.estimators`: each an Estimator.
"""

import dataclasses
import importlib.metadata
import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from ope import single_actions, slates, weights
from ope.errors import RowsError
from ope.estimate import Estimate, estimate_of
from ope.intervals import STUDENT_T, Interval
from ope.moments import Moments, Terms, gather, merge
from ope.rows import Batch, Floats, check

__all__ = ["CATALOG", "ENTRY_POINTS", "FAMILIES", "ON_POLICY", "SLATE_ESTIMATORS", "Estimator", "Family", "Finish", "estimator"]

ENTRY_POINTS = "slateloop.estimators"


class Finish(Protocol):
    """(moments, level) -> Estimate; with a Student-t interval unless another is given. `level` in (0, 0.5)."""

    def __call__(self, moments: Moments, level: float, interval: Interval = ...) -> Estimate: ...


class Estimator(NamedTuple):
    """One entry of the catalog."""

    name: str
    # What must hold for the value to be right, for verdicts and reports.
    assumption: str
    # Arrays of `Batch` that it cannot do without.
    needs: tuple[str, ...]
    # batch -> its rows' numbers, checked.
    terms: Callable[[Batch], Terms]
    # batch -> moments. Raises RowsError for a missing array, another shape, or a NaN.
    moments: Callable[[Batch], Moments]
    merge: Callable[[Moments, Moments], Moments]
    finish: Finish
    # Terms of a batch that is checked already and has what it needs; None where moments are no sum of terms of one policy.
    raw: Callable[[Batch], Terms] | None = None
    # What its value is a mean over (`ope.impressions`).
    denominator: str = "decision"
    # What is to be doubted of every value of its kind, last of the reasons.
    doubts: tuple[str, ...] = ()


class Family(NamedTuple):
    """Estimators that differ by one number: how far the weights are tamed."""

    name: str
    assumption: str
    needs: tuple[str, ...]
    # Terms of a checked batch at one number; the number that `name` alone means, and those that it may be.
    make: Callable[[Batch, float], Terms]
    default: float
    lowest: float
    highest: float
    # Numbers that `:slope` and `:mse` choose among; the one that leaves the weights alone is the last.
    candidates: tuple[float, ...]

    def at(self, number: float) -> Callable[[Batch], Terms]:
        """The terms at that number. Raises RowsError where it is out of range."""
        if not self.lowest <= number <= self.highest:
            raise RowsError(f"{self.name}:{number:g}: the number is out of range; give one in [{self.lowest:g}, {self.highest:g}]")
        return lambda batch: self.make(batch, number)


def estimator(name: str) -> Estimator:
    """The estimator of that name: of the catalog, of a family with its number, or of another package.

    Raises RowsError with the known names.
    """
    known = {**CATALOG, **_entry_points()}
    if name in known:
        return known[name]
    family, _, number = name.partition(":")
    if family in FAMILIES and number:
        return _of_family(FAMILIES[family], number)
    raise RowsError(f"estimator {name!r} is unknown; known: {', '.join(known)}")


@cache
def _entry_points() -> dict[str, Estimator]:
    """Estimators of other packages, by their names there; a name of the catalog cannot be taken."""
    found = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS) if point.name not in CATALOG}
    return {name: point.load() for name, point in sorted(found.items())}


def _of_family(family: Family, number: str) -> Estimator:
    from ope.tuning import METHODS, tuned  # here, because it is made of entries of this catalog

    if number in METHODS:
        return tuned(family, method=number)
    try:
        value = float(number)
    except ValueError as error:
        raise RowsError(f"{family.name}:{number}: is no number; give a number, or {' or '.join(METHODS)}") from error
    if math.isnan(value):
        raise RowsError(f"{family.name}:nan: is no number; give one in [{family.lowest:g}, {family.highest:g}]")
    return entry_of(f"{family.name}:{number}", family.at(value), assumption=family.assumption, needs=family.needs)


def checked(batch: Batch, *, name: str, needs: tuple[str, ...], make: Callable[[Batch], Terms]) -> Terms:
    """`make(batch)` once the batch is checked and has what the estimator needs."""
    require(batch, name=name, needs=needs)
    return make(check(batch))


def require(batch: Batch, *, name: str, needs: tuple[str, ...]) -> None:
    """Raises RowsError for an array that is needed and not there."""
    for array in needs:
        if getattr(batch, array) is None:
            raise RowsError(f"{array} is None; `{name}` needs it: give {' and '.join(needs)}, or take another estimator")


def entry_of(
    name: str,
    make: Callable[[Batch], Terms],
    *,
    assumption: str,
    needs: tuple[str, ...] = ("weight",),
    doubts: tuple[str, ...] = (),
    denominator: str = "decision",
) -> Estimator:
    """An entry whose value follows from its terms, `make(batch)` of a checked batch."""

    def terms(batch: Batch) -> Terms:
        return checked(batch, name=name, needs=needs, make=make)

    def moments(batch: Batch) -> Moments:
        return gather([terms(batch)], unit=batch.unit)

    def finish(moments: Moments, level: float, interval: Interval = STUDENT_T) -> Estimate:
        found = estimate_of(moments, level=level, interval=interval, doubts=doubts, assumption=assumption)
        return dataclasses.replace(found, denominator=denominator)

    return Estimator(name, assumption, needs, terms, moments, merge, finish, make, denominator, doubts)


def _on_policy(batch: Batch) -> Terms:
    none = np.zeros((len(batch.reward), 0))
    return Terms(batch.reward.sum(axis=1), np.ones(len(batch.reward)), none, none)


_MODEL = "the model alone speaks: no logged reward of these rows enters, and its bias is not in the error"
_SUPPORT = "the logging policy can take whatever the target policy takes"
_SMALL_BIAS = "a bias of order 1/n is accepted"
_TAMED = "a bias is accepted for less variance, and is not in the error"
_UNSEEN = "the reward model never saw the row"
_FIXED = "every logger was fixed before the data"
_EMBEDDING = "an action acts on the reward only through its embedding; the target's embeddings can all be logged"
_SMOOTH = "the expected reward is smooth in the action over a bandwidth, which biases the value"
_ADDITIVE = "the slate's reward is a sum over slots of what each item does there, unseen ones included"
_CASCADE = "a slot's reward depends on this and the earlier slots only"
_NO_INTERACTION = "a slot's reward depends on its own item only: where slots interact, a ranking can be reversed with a tight interval"
_MODELLED = ("weight", "q_logged", "v_target")
_LIMITS = (1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, math.inf)
_PULLS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0)


def _tamed_ips(batch: Batch, number: float, *, by: Callable[..., Floats]) -> Terms:
    return single_actions.importance(batch, kind="weight", tame=lambda weight: by(weight, number))


def _tamed_dr(batch: Batch, number: float, *, by: Callable[..., Floats]) -> Terms:
    return single_actions.corrected(batch, kind="weight", tame=lambda weight: by(weight, number))


def _family(name: str, by: Callable[..., Floats], *, default: float) -> Family:
    modelled, pulled = name.endswith("dr") or name == "dros", by is weights.sub_gaussian
    assumption = f"{_SUPPORT}; {_TAMED}" + (f"; {_UNSEEN}" if modelled else "")
    low, high, candidates = (0.0, 0.999, _PULLS) if pulled else (0.0, math.inf, _LIMITS)
    make = partial(_tamed_dr if modelled else _tamed_ips, by=by)
    return Family(name, assumption, _MODELLED if modelled else ("weight",), make, default, low, high, candidates)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            _family("clipped_ips", weights.clipped, default=10.0),
            _family("sg_ips", weights.sub_gaussian, default=0.1),
            _family("clipped_dr", weights.clipped, default=10.0),
            _family("switch_dr", weights.switched, default=10.0),
            _family("dros", weights.shrunk, default=100.0),
            _family("sg_dr", weights.sub_gaussian, default=0.1),
        )
    }
)


def _kinds(prefix: str, kind: str, assumption: str) -> list[Estimator]:
    """Plain, self-normalised and corrected by a model, under a weight of that kind."""
    needs, modelled = (kind,), (kind, "q_logged", "v_target")
    return [
        entry_of(f"{prefix}ips", partial(single_actions.importance, kind=kind), assumption=assumption, needs=needs),
        entry_of(
            f"{prefix}snips", partial(single_actions.self_normalised, kind=kind), assumption=f"{assumption}; {_SMALL_BIAS}", needs=needs
        ),
        entry_of(f"{prefix}dr", partial(single_actions.corrected, kind=kind), assumption=f"{assumption}; {_UNSEEN}", needs=modelled),
    ]


def _slate(name: str, make: Callable[..., Terms], kind: str, assumption: str) -> Estimator:
    return entry_of(name, partial(make, kind=kind), assumption=assumption, needs=(kind,))


_IPS, _SNIPS, _DR = _kinds("", "weight", _SUPPORT)
_DM = entry_of("dm", single_actions.model, assumption="the reward model is right", needs=("v_target",), doubts=(_MODEL,))
_SNDR = entry_of(
    "sndr",
    partial(single_actions.corrected_self_normalised, kind="weight"),
    assumption=f"{_SUPPORT}; {_UNSEEN}; {_SMALL_BIAS}",
    needs=_MODELLED,
)
_SLATES = (
    _slate("rips", slates.by_slot, "weight", f"{_SUPPORT}; {_CASCADE}"),
    _slate("sips", slates.whole, "weight", f"{_SUPPORT}, whole slates"),
    _slate("iips", slates.by_slot, "marginal_weight", f"{_SUPPORT}, slot by slot; {_NO_INTERACTION}"),
    _slate("snrips", slates.normalised_by_slot, "weight", f"{_SUPPORT}; {_CASCADE}; {_SMALL_BIAS}"),
    _slate("snsips", slates.normalised_whole, "weight", f"{_SUPPORT}, whole slates; {_SMALL_BIAS}"),
    _slate("sniips", slates.normalised_by_slot, "marginal_weight", f"{_SUPPORT}, slot by slot; {_NO_INTERACTION}; {_SMALL_BIAS}"),
    _slate("pseudo_inverse", slates.whole, "slate_weight", f"{_SUPPORT}, slot by slot; {_ADDITIVE}"),
    entry_of("cascade_dr", slates.cascade, assumption=f"{_SUPPORT}; {_CASCADE}; {_UNSEEN}", needs=_MODELLED),
)

CATALOG: Mapping[str, Estimator] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            _IPS,
            _SNIPS,
            _DM,
            _DR,
            _SNDR,
            *(entry_of(f.name, f.at(f.default), assumption=f.assumption, needs=f.needs) for f in FAMILIES.values()),
            *_kinds("balanced_", "mixture_weight", f"{_SUPPORT}; {_FIXED}"),
            *_kinds("m", "embedding_weight", _EMBEDDING),
            *_kinds("kernel_", "kernel_weight", _SMOOTH),
            *_SLATES,
        )
    }
)
# The value of the policy that logged the rows: not in the catalog, for it is no estimate of another policy.
ON_POLICY = entry_of("on_policy", _on_policy, assumption="none", needs=())
# Those that take slates of more than one slot.
SLATE_ESTIMATORS = tuple(entry.name for entry in _SLATES)
