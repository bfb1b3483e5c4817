"""From observations to training rows, and from training rows to a state. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bandits.outcomes import slot_outcomes
from bandits.policy import Batch
from bandits.quantise import DENOMINATOR
from bandits.requests import requests_from_observations

__all__ = ["absorb", "chain_of_revisions", "training_rows"]

# Padded sizes of a batch: two programs are compiled, whatever comes.
_BATCHES = (256, 4096)


def chain_of_revisions(new: pa.Table, earlier: pa.Table) -> pa.Table:
    """`new` revisions with a column `sign` 1, behind each the revision that it replaces with `sign` -1.

    `earlier` holds all revisions of the decisions that were revised. What a learner that has seen every revision before `new` must
    add, so that only the latest revision of each decision counts.
    """
    replaced = new.filter(pc.greater(new["revision"], 1))
    keys = set(zip(replaced["decision_id"].to_pylist(), replaced["revision"].to_pylist(), strict=True))
    found = list(zip(earlier["decision_id"].to_pylist(), earlier["revision"].to_pylist(), strict=True))
    taken_back = earlier.filter(pa.array([(decision, revision + 1) in keys for decision, revision in found], pa.bool_()))
    parts = [part.append_column("sign", pa.array(np.full(part.num_rows, sign))) for part, sign in ((new, 1.0), (taken_back, -1.0))]
    return pa.concat_tables([parts[0], parts[1].cast(parts[0].schema)])


def training_rows(
    observations: pa.Table, *, actions: tuple[str, ...], context_size: int, feature_size: int, train_on: str, outcomes: Sequence[str] = ()
) -> Batch:
    """The slots that train: of decisions that were logged, not overridden and no fallback; of actions that the table has.

    `observations` has the columns of an observation and `sign`; `outcomes`: names of those that the policy asks for.
    """
    usable = pc.and_(pc.and_(observations["logged"], pc.invert(observations["overridden"])), pc.equal(observations["fallback"], 0))
    rows = observations.filter(usable)
    requests, slates = requests_from_observations(rows, actions=actions, context_size=context_size, feature_size=feature_size)
    reward, seen = _slot_rewards(rows, slates.shape[1])
    index = requests.actions[np.arange(len(slates))[:, None], np.maximum(slates, 0)]
    trains = (slates >= 0) & (index < len(actions)) & (seen | (train_on == "all"))
    row, slot = np.nonzero(trains)
    named = slot_outcomes(rows["outcomes"], names=outcomes, slots=slates.shape[1])
    return Batch.of(
        requests.context[row],
        index[row, slot],
        np.where(seen, reward, 0.0)[row, slot],
        features=requests.features[row, slates[row, slot]],
        weight=rows["sign"].to_numpy()[row],
        time_s=rows["decision_time_us"].to_numpy()[row] / 1e6,
        slot=slot,
        propensity=_slot_lists(rows["slot_numerator"], slates.shape[1])[row, slot] / DENOMINATOR,
        outcomes=np.where(seen[:, :, None], named, 0.0)[row, slot],
    )


def absorb(update: Any, state: Any, rows: Batch) -> Any:
    """The state after all rows; `update` is the policy's, compiled."""
    for batch in _batches(rows):
        state = update(state, batch)
    return state


def _batches(rows: Batch) -> Iterator[Batch]:
    start = 0
    while start < rows.n_rows:
        size = next((size for size in _BATCHES if size >= rows.n_rows - start), _BATCHES[-1])
        part = [column[start : start + size] for column in rows]
        # Padding has weight 0, and a propensity that may be divided by.
        fills = rows._replace(**dict.fromkeys(rows._fields, 0))._replace(propensity=1)
        yield Batch(*(_padded(column, size, fill) for column, fill in zip(part, fills, strict=True)))
        start += size


def _padded(column: np.ndarray, size: int, fill: float) -> np.ndarray:
    return np.pad(column, ((0, size - len(column)), *((0, 0),) * (column.ndim - 1)), constant_values=fill)


def _slot_rewards(rows: pa.Table, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Rewards by slot, f64[n, L] (NaN where not seen), and which slots were seen, bool[n, L]."""
    reward = _slot_lists(rows["slot_reward"], slots)
    return reward, ~np.isnan(reward)


def _slot_lists(column: pa.ChunkedArray, slots: int) -> np.ndarray:
    """A column of lists by slot as f64[n, L], NaN where there is no number."""
    lists = column.combine_chunks()
    lists = lists if isinstance(lists, pa.ListArray) else pa.array([], column.type)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    numbers = np.full((len(column), slots), np.nan)
    flat = pc.fill_null(lists.flatten().cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False)
    numbers[np.arange(slots)[None, :] < lengths[:, None]] = flat
    return numbers
