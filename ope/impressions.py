"""A mean per impression instead of per decision: a ratio of two estimates of the same rows. Pure.

    value = sum_i (weighted reward of row i) / sum_i (weighted seen slots of row i)

Both are made by the same estimator, the denominator of 1 where a slot was seen and 0 where not, so the weights count what the TARGET
policy would have had seen. Rows of which nothing was seen are in neither sum. The error is that of a ratio, by the delta method,
clustered by unit. A decision (intent to treat) is what a policy controls; whether a slot is seen may itself depend on the policy, so a
policy can win per impression by being seen less.
"""

import numpy as np

from ope.errors import RowsError
from ope.estimators import Estimator, entry_of
from ope.moments import Terms
from ope.rows import Batch

__all__ = ["DECISION", "DENOMINATORS", "IMPRESSION", "named", "per"]

DECISION, IMPRESSION = "decision", "impression"
DENOMINATORS = (DECISION, IMPRESSION)
# Weighted sums of rewards over a number of rows: the others divide by their own weights, or by a model of the reward of a decision.
_SUMS = ("on_policy", "ips", "clipped_ips", "sg_ips", "balanced_ips", "mips", "kernel_ips", "rips", "sips", "iips", "pseudo_inverse")


def per(entry: Estimator, *, denominator: str) -> Estimator | None:
    """The estimator as a mean per `denominator`, one of DENOMINATORS; None where it has no such form. Raises RowsError for another."""
    if denominator not in DENOMINATORS:
        raise RowsError(f"denominator {denominator!r} is unknown; a mean is per {' or '.join(DENOMINATORS)}")
    if denominator == DECISION:
        return entry
    raw = entry.raw
    if entry.name.partition(":")[0] not in _SUMS or raw is None:
        return None

    def ratio(batch: Batch) -> Terms:
        assert batch.seen is not None
        shown = batch.seen.any(axis=1, keepdims=True)
        rewards, impressions = raw(batch._replace(reward=np.where(shown, batch.reward, 0.0))), raw(batch._replace(reward=batch.seen))
        return rewards._replace(denominator=impressions.numerator)

    needs = (*entry.needs, "seen")
    return entry_of(entry.name, ratio, assumption=entry.assumption, needs=needs, doubts=entry.doubts, denominator=IMPRESSION)


def named(entry: Estimator, *, denominator: str) -> Estimator:
    """The same for an estimator that was asked for by name. Raises RowsError where it has no such form."""
    found = per(entry, denominator=denominator)
    if found is None:
        raise RowsError(
            f"estimator {entry.name!r} has no form per {denominator}: it divides by its own weights, or its model is of a decision's "
            f"reward; take one of {', '.join(_SUMS[1:])}"
        )
    return found
