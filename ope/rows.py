"""The rows that estimators take: one logged decision each, with the weight of the target policy against the logging one.

A slate has L slots; a single action is a slate of one. Where a row has fewer slots than L, the absent ones carry reward 0 and repeat
the last weight, so `weight[:, -1]` is the joint weight of every row, and a weight has mean 1 in every column.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ope.errors import RowsError

__all__ = ["Batch", "Floats", "Keys", "as_logged", "check", "dealt", "prefix_weights", "single_actions", "unit_keys"]

# Arrays of a batch beside the reward and the unit: those of one number a slot, and those of one number a row.
_BY_SLOT = ("weight", "q_logged", "v_target", "marginal_weight", "seen")
_BY_ROW = ("slate_weight", "embedding_weight", "mixture_weight", "kernel_weight")
_SIGNED = ("q_logged", "v_target", "slate_weight")

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]


class Batch(NamedTuple):
    """n logged decisions under one target policy."""

    # Reward of each slot, f64[n, L], in the metric's unit; 0 where a slot was not seen. What is the whole slate's stands in its last slot.
    reward: Floats
    # Prefix weights, f64[n, L] >= 0: product over slots 1..l of target propensity / logged propensity. None for `dm`.
    weight: Floats | None = None
    # Reward model at the logged action, f64[n, L]: q(x, a). None where the estimator asks for none.
    q_logged: Floats | None = None
    # Reward model averaged over the target's actions, f64[n, L]: sum_a pi(a|x) q(x, a).
    v_target: Floats | None = None
    # Key of the randomised unit, u64[n]; None = every row is a unit of its own.
    unit: Keys | None = None
    # Weights of other kinds, for the estimators that ask for them; each has mean 1 if propensities and support are right.
    # Of an item in its slot, whatever stands in the other slots, f64[n, L] >= 0: target marginal / logged marginal.
    marginal_weight: Floats | None = None
    # Pseudo-inverse weight of the slate, f64[n, 1], any sign: see `ope.pseudo_inverse`.
    slate_weight: Floats | None = None
    # Of the action's embedding, f64[n, 1] >= 0: see `ope.embeddings`.
    embedding_weight: Floats | None = None
    # Target propensity / the mixture propensity of loggers declared fixed before the data, f64[n, 1] >= 0.
    mixture_weight: Floats | None = None
    # Of a continuous action, f64[n, 1] >= 0: see `ope.kernels`.
    kernel_weight: Floats | None = None
    # 1 where the slot was seen, 0 where not, f64[n, L]; for means per impression.
    seen: Floats | None = None


def as_logged(batch: Batch) -> Batch:
    """The same rows under the policy that logged them: every weight is 1, and the model says of it what it says of the action taken."""
    weights = [name for name in (*_BY_SLOT, *_BY_ROW) if name.endswith("weight") and getattr(batch, name) is not None]
    same = batch._replace(v_target=None if batch.v_target is None else batch.q_logged)
    return same._replace(**{name: np.ones_like(getattr(batch, name)) for name in weights})


def single_actions(
    *,
    reward: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    q_logged: npt.ArrayLike | None = None,
    v_target: npt.ArrayLike | None = None,
    unit: Keys | None = None,
    **weights: npt.ArrayLike,
) -> Batch:
    """Rows of one action each, from arrays [n]; `weights` by their names in Batch. Raises RowsError as `check` does."""
    given = {"weight": weight, "q_logged": q_logged, "v_target": v_target, **weights}
    columns = {name: _column(values) for name, values in given.items() if values is not None}
    return check(Batch(_column(reward), unit=unit, **columns))


def prefix_weights(*, target: npt.ArrayLike, logged: npt.ArrayLike, present: npt.NDArray[np.bool_]) -> Floats:
    """w[i, l] = product over j <= l of target[i, j] / logged[i, j], absent slots counting 1.

    `target`, `logged`: conditional propensities [n, L] on a common scale (probabilities, or numerators out of 2^31). Raises RowsError
    for a logged propensity of a present slot that is not positive.
    """
    target, logged = np.asarray(target, np.float64), np.asarray(logged, np.float64)
    faulty = np.argwhere(present & ~(logged > 0))
    if len(faulty):
        row, slot = faulty[0]
        raise RowsError(f"logged propensity of row {row}, slot {slot} is {logged[row, slot]}; it must be > 0: leave out such rows")
    ratio: Floats = np.where(present, target, 1.0) / np.where(present, logged, 1.0)
    return np.asarray(np.cumprod(ratio, axis=1), np.float64)


# More groups than this change no interval that anybody could tell apart: its width is known to 1 / sqrt(2 x groups) of itself.
GROUPS = 4096


def dealt(batch: Batch, *, first: int = 0, groups: int = GROUPS) -> Batch:
    """The batch, its rows dealt in turn into `groups` groups where they have no unit; `first` = place of its first row in the log.

    Rows that are independent make independent groups, so intervals over groups hold, in memory that does not grow with rows.
    """
    if batch.unit is not None:
        return batch
    return batch._replace(unit=(np.uint64(first) + np.arange(len(batch.reward), dtype=np.uint64)) % np.uint64(groups))


def unit_keys(units: Sequence[str]) -> Keys:
    """A key for each unit id, u64[n]: the first 8 bytes of its BLAKE2b. Two of a million units share one with probability 3e-8."""
    distinct, inverse = np.unique(np.asarray(units, dtype=np.str_), return_inverse=True)
    keys = [int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8).digest(), "little") for unit in distinct.tolist()]
    return np.asarray(keys, np.uint64)[inverse]


def check(batch: Batch) -> Batch:
    """The batch itself, in float64, if its arrays fit together.

    Raises RowsError for another shape, a value that is not finite (named by array and row), or a negative weight.
    """
    reward = _float64("reward", batch.reward, np.shape(batch.reward))
    rows = len(reward)
    if batch.unit is not None and batch.unit.shape != (rows,):
        raise RowsError(f"unit has shape {batch.unit.shape}; give one key a row, ({rows},)")
    shapes = {**dict.fromkeys(_BY_SLOT, reward.shape), **dict.fromkeys(_BY_ROW, (rows, 1))}
    given = {name: getattr(batch, name) for name in shapes if getattr(batch, name) is not None}
    arrays = {name: _float64(name, values, shapes[name]) for name, values in given.items()}
    for name in arrays.keys() - _SIGNED:
        _not_negative(name, arrays[name])
    if "seen" in arrays and (wrong := np.argwhere((arrays["seen"] != 0) & (arrays["seen"] != 1))).size:
        row, slot = wrong[0]
        raise RowsError(f"seen of row {row}, slot {slot} is {arrays['seen'][row, slot]}; give 1 where it was seen, 0 where not")
    return Batch(reward, unit=batch.unit, **arrays)


def _not_negative(name: str, weight: Floats) -> None:
    if weight.size and weight.min() < 0:
        row = int(np.argwhere(weight < 0)[0, 0])
        raise RowsError(f"{name} of row {row} is {weight[row].min()}; weights are >= 0: check the propensities of that row")


def _column(values: npt.ArrayLike) -> Floats:
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise RowsError(f"a single action has one number a row; got shape {values.shape}: give arrays [n], or make a Batch of slates")
    return values[:, None]


def _float64(name: str, values: npt.ArrayLike, shape: tuple[int, ...]) -> Floats:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape != shape:
        wanted = "[n, 1]" if name in _BY_ROW else "[n, L] like reward"
        raise RowsError(f"{name} has shape {values.shape}; give {wanted}, {shape}")
    finite = np.isfinite(values)
    if not finite.all():
        row, slot = np.argwhere(~finite)[0]
        raise RowsError(f"{name} of row {row}, slot {slot} is {values[row, slot]}; estimates need finite numbers: mend the row")
    return values
