"""The catalog of estimators: each is `moments(batch) -> M`, `merge(M, M) -> M`, `finish(M, level) -> Estimate`.

Every value is a ratio of totals over rows. With w the weight (`Batch.weight`), r the reward, q and v the reward model:

    ips    mean(w r)                  Horvitz and Thompson (1952)
    snips  sum(w r) / sum(w)          Swaminathan and Joachims (2015)
    dm     mean(v)
    dr     mean(v + w (r - q))        Dudik, Langford and Li (2011), equation 2
    sips   mean(w_L sum_l r_l)        joint weight of the whole slate: nothing assumed about slots
    rips   mean(sum_l w_l r_l)        prefix weights: McInerney et al. (2020), equation 5
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from ope.errors import RowsError
from ope.estimate import Estimate, estimate_of
from ope.intervals import STUDENT_T, Interval
from ope.moments import Moments, Terms, gather, merge
from ope.rows import Batch, Floats, check

__all__ = ["CATALOG", "ON_POLICY", "SLATE_ESTIMATORS", "Estimator", "Finish", "estimator"]


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


def _checked(batch: Batch, *, name: str, needs: tuple[str, ...], make: Callable[[Batch], Terms]) -> Terms:
    """`make(batch)` once the batch is checked and has what the estimator needs."""
    for array in needs:
        if getattr(batch, array) is None:
            raise RowsError(f"{array} is None; `{name}` needs it: give {' and '.join(needs)}, or take another estimator")
    return make(check(batch))


def estimator(name: str) -> Estimator:
    """The estimator of that name. Raises RowsError with the known names."""
    if name not in CATALOG:
        raise RowsError(f"estimator {name!r} is unknown; known: {', '.join(CATALOG)}")
    return CATALOG[name]


def _estimator(
    name: str, make: Callable[[Batch], Terms], *, assumption: str, needs: tuple[str, ...] = ("weight",), doubts: tuple[str, ...] = ()
) -> Estimator:
    def terms(batch: Batch) -> Terms:
        return _checked(batch, name=name, needs=needs, make=make)

    def moments(batch: Batch) -> Moments:
        return gather([terms(batch)], unit=batch.unit)

    def finish(moments: Moments, level: float, interval: Interval = STUDENT_T) -> Estimate:
        return estimate_of(moments, level=level, interval=interval, doubts=doubts)

    return Estimator(name, assumption, needs, terms, moments, merge, finish)


def _single(column: Floats | None, name: str) -> Floats:
    """The one column of an array of single actions."""
    assert column is not None
    if column.shape[1] != 1:
        raise RowsError(f"reward has {column.shape[1]} slots; `{name}` takes single actions: use rips or sips for slates")
    return column[:, 0]


def _mean(numerator: Floats, weight: Floats, slot_value: Floats) -> Terms:
    return Terms(numerator, np.ones(len(numerator)), weight, slot_value)


def _ips(batch: Batch) -> Terms:
    weight = _single(batch.weight, "ips")[:, None]
    weighted = weight * batch.reward
    return _mean(weighted[:, 0], weight, weighted)


def _snips(batch: Batch) -> Terms:
    weight = _single(batch.weight, "snips")[:, None]
    weighted = weight * batch.reward
    return Terms(weighted[:, 0], weight[:, 0], weight, weighted)


def _dm(batch: Batch) -> Terms:
    value = _single(batch.v_target, "dm")
    return _mean(value, np.zeros((len(value), 0)), np.zeros((len(value), 0)))


def _dr(batch: Batch) -> Terms:
    weight, q_logged, value = (_single(column, "dr") for column in (batch.weight, batch.q_logged, batch.v_target))
    numerator = value + weight * (batch.reward[:, 0] - q_logged)
    return _mean(numerator, weight[:, None], numerator[:, None])


def _sips(batch: Batch) -> Terms:
    assert batch.weight is not None
    joint = batch.weight[:, -1:]
    weighted = joint * batch.reward.sum(axis=1, keepdims=True)
    return _mean(weighted[:, 0], joint, weighted)


def _rips(batch: Batch) -> Terms:
    assert batch.weight is not None
    weighted = batch.weight * batch.reward
    return _mean(weighted.sum(axis=1), batch.weight, weighted)


def _on_policy(batch: Batch) -> Terms:
    none = np.zeros((len(batch.reward), 0))
    return _mean(batch.reward.sum(axis=1), none, none)


_MODEL = "the model alone speaks: no logged reward of these rows enters, and its bias is not in the error"
_SUPPORT = "the logging policy can take whatever the target policy takes"

CATALOG: Mapping[str, Estimator] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            _estimator("ips", _ips, assumption=_SUPPORT),
            _estimator("snips", _snips, assumption=f"{_SUPPORT}; a bias of order 1/n is accepted"),
            _estimator("dm", _dm, assumption="the reward model is right", needs=("v_target",), doubts=(_MODEL,)),
            _estimator("dr", _dr, assumption=f"{_SUPPORT}; the reward model never saw the row", needs=("weight", "q_logged", "v_target")),
            _estimator("sips", _sips, assumption=f"{_SUPPORT}, whole slates"),
            _estimator("rips", _rips, assumption=f"{_SUPPORT}; a slot's reward depends on this and the earlier slots only"),
        )
    }
)
# The value of the policy that logged the rows: not in the catalog, for it is no estimate of another policy.
ON_POLICY = _estimator("on_policy", _on_policy, assumption="none", needs=())
# Those that take slates of more than one slot.
SLATE_ESTIMATORS = ("rips", "sips")
