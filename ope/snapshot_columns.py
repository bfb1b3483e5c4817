"""The weights of a snapshot's policy on logged data in columns: its own propensity of what was logged, over the logged one.

Which column holds what: `SnapshotColumns`. The policy is asked as it is when it serves (masks, floors, wrappers and all), so a policy
that always takes one action gives weights of 0 and 1 / propensity.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from bandits.keys import DECISION_ID_BYTES
from bandits.loaded import LoadedPolicy
from bandits.requests import Requests, requests_from_observations
from ope.errors import SourceError
from ope.observed import padded
from ope.parquet_log import checked_columns, checked_propensities, is_list, keys_of, numbers_of, open_dataset
from ope.rows import Batch, Floats, prefix_weights

__all__ = ["SnapshotColumns", "batches_under", "read_under"]

# Rows at once: a slot is looked for among all candidates of its row.
_BATCH_ROWS = 1 << 14


@dataclasses.dataclass(frozen=True)
class SnapshotColumns:
    """Which column holds what. Where `action` is a column of lists, rows are slates, and so are reward, propensity and seen."""

    # Id of the action taken, a text or a number; of slates the ids, top first. Reward in the metric's unit.
    action: str
    reward: str
    # Logged propensity of the action, of slates conditional on the earlier slots, in (0, 1].
    propensity: str
    # The context as the snapshot's schema encodes it: a column of lists, or a column of numbers each, in the schema's order.
    context: tuple[str, ...] = ()
    # Lists: ids of the row's candidates (without it, every action of the snapshot), and the mask, true = may be shown.
    candidates: str | None = None
    eligible: str | None = None
    # Lists, behind each other by candidate: the features of the candidates, and one score of an external ranker each.
    candidate_features: str | None = None
    candidate_scores: str | None = None
    # Names the decision, for policies whose distribution depends on its key; without it, the number of the row.
    decision_id: str | None = None
    # Randomised unit, for clustered errors; 1 where it was seen, 0 where not.
    unit: str | None = None
    seen: str | None = None

    @property
    def own_candidates(self) -> bool:
        """Does a row say more of its candidates than which of all actions may be shown, or name its key?"""
        return any(one is not None for one in (self.candidates, self.candidate_features, self.candidate_scores, self.decision_id))

    def named(self) -> list[tuple[str, str]]:
        """(Flag, column) of those that are given."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "context"}
        return [(name, column) for name, column in given.items() if column is not None] + [("context", one) for one in self.context]


def read_under(path: Path, columns: SnapshotColumns, *, policy: LoadedPolicy, kind: str) -> Iterator[Batch]:
    """The rows of a file, folder or table (`ope.parquet_log.KINDS`), weighted for the policy. Raises as `batches_under` does."""
    yield from batches_under(open_dataset(path, kind), columns, policy=policy)


def batches_under(dataset: ds.Dataset, columns: SnapshotColumns, *, policy: LoadedPolicy) -> Iterator[Batch]:
    """The rows of an Arrow dataset, weighted for the policy.

    Raises SourceError for a column or value that does not fit, FeatureError for vectors of another size than the snapshot's schema has,
    RowsError for a logged propensity of 0.
    """
    checked_columns(columns.named(), dataset.schema)
    needed, seen = list(dict.fromkeys(column for _, column in columns.named())), 0
    for record in dataset.to_batches(columns=needed, batch_size=_BATCH_ROWS):
        if record.num_rows:
            yield _batch(pa.Table.from_batches([record]), columns, policy, first=seen)
        seen += record.num_rows


def _batch(rows: pa.Table, columns: SnapshotColumns, policy: LoadedPolicy, *, first: int) -> Batch:
    slates = is_list(rows.schema.field(columns.action))
    requests, logged = _requests(rows, columns, policy, first=first)
    present = np.arange(logged.shape[1]) < requests.slots[:, None]
    _refuse_strangers(rows, present & (logged < 0), columns.action, first)
    propensity = checked_propensities(rows, columns.propensity, slates=slates, present=present)
    return Batch(
        numbers_of(rows, columns.reward, slates=slates),
        prefix_weights(target=policy.slate_numerators(requests, logged) / 2.0**31, logged=propensity, present=present),
        unit=None if columns.unit is None else keys_of(rows[columns.unit]),
        seen=None if columns.seen is None else numbers_of(rows, columns.seen, slates=slates),
    )


def _requests(rows: pa.Table, columns: SnapshotColumns, policy: LoadedPolicy, *, first: int) -> tuple[Requests, npt.NDArray[np.int32]]:
    """The requests, and the logged slates as indices into each row's candidates, -1 where there is no such slot or candidate."""
    _, context_size, feature_size = policy.manifest.dims
    if columns.own_candidates or feature_size:
        asked = _as_observations(rows, columns, policy, first=first)
        return requests_from_observations(asked, actions=policy.manifest.actions, context_size=context_size, feature_size=feature_size)
    # Every action is a candidate: no list of texts a row, which would cost more than the policy.
    logged, slots = _logged(rows, columns.action, policy.manifest.actions)
    number = np.uint64(first) + np.arange(rows.num_rows, dtype=np.uint64)
    requests = Requests.of(
        _matrix(_context(rows, columns.context), context_size, ", ".join(columns.context) or "context"),
        np.arange(len(policy.manifest.actions)),
        slots=slots,
        draw_key=np.stack([number & np.uint64(0xFFFFFFFF), number >> np.uint64(32)], axis=1),
        eligible=None if columns.eligible is None else _mask(rows, columns.eligible, len(policy.manifest.actions)),
    )
    return requests, logged


def _logged(rows: pa.Table, column: str, actions: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Places of the logged actions among `actions`, i32[n, L], -1 where there is none; and how many each row has."""
    lists = _texts(rows, column).combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    place = pc.index_in(lists.flatten(), value_set=pa.array(actions)).fill_null(-1)
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    values, given = padded(pa.chunked_array([pa.ListArray.from_arrays(offsets, place)]))
    return np.where(given, values, -1).astype(np.int32), lengths


def _matrix(column: pa.ChunkedArray | pa.Array, size: int, name: str) -> Floats:
    values, given = padded(column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column]))
    if not (given.sum(axis=1) == size).all() or (size and values.shape[1] != size):
        found = int(next(count for count in given.sum(axis=1) if count != size))
        raise SourceError(f"column {name!r}: a logged vector has {found} numbers, the schema {size}; use the snapshot of that schema")
    return values[:, :size]


def _mask(rows: pa.Table, column: str, size: int) -> npt.NDArray[np.bool_]:
    return _matrix(_lists(rows, column, pa.bool_()), size, column).astype(bool)


def _as_observations(rows: pa.Table, columns: SnapshotColumns, policy: LoadedPolicy, *, first: int) -> pa.Table:
    """The same rows with the columns that requests are made of (`protos.observations`)."""
    n = rows.num_rows
    every = pa.array([list(policy.manifest.actions)], pa.list_(pa.string()))
    candidates = every.take(np.zeros(n, np.int64)) if columns.candidates is None else _texts(rows, columns.candidates)
    return pa.table(
        {
            "slot_action": _texts(rows, columns.action),
            "candidate_actions": candidates,
            "candidate_eligible": _lists(rows, columns.eligible, pa.bool_()),
            "candidate_packed_features": _lists(rows, columns.candidate_features, pa.float32()),
            "candidate_scores": _lists(rows, columns.candidate_scores, pa.float64()),
            "context": _context(rows, columns.context),
            "decision_id": _decision_ids(rows, columns.decision_id, first),
            "draw_by": [""] * n,
            "task": [policy.manifest.task] * n,
            "unit_id": [""] * n,
            "epoch": [0] * n,
        }
    )


def _texts(rows: pa.Table, column: str) -> pa.ChunkedArray:
    """Ids as lists of texts, a number as its digits; an id alone is a list of one."""
    values = rows[column]
    if is_list(rows.schema.field(column)):
        return values.cast(pa.list_(pa.string()))
    flat = values.cast(pa.string()).combine_chunks()
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(np.arange(rows.num_rows + 1, dtype=np.int32)), flat)])


def _lists(rows: pa.Table, column: str | None, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if column is None:
        return pa.array([[]] * rows.num_rows, pa.list_(kind))
    if not is_list(rows.schema.field(column)):
        raise SourceError(f"column {column!r}: is {rows.schema.field(column).type}; it must hold lists, an entry a candidate: map another")
    return rows[column].cast(pa.list_(kind))


def _context(rows: pa.Table, columns: tuple[str, ...]) -> pa.ChunkedArray | pa.Array:
    if len(columns) == 1 and is_list(rows.schema.field(columns[0])):
        return rows[columns[0]].cast(pa.list_(pa.float32()))
    if not columns:
        return pa.array([[]] * rows.num_rows, pa.list_(pa.float32()))
    values = np.concatenate([numbers_of(rows, column, slates=False) for column in columns], axis=1).astype(np.float32)
    offsets = np.arange(rows.num_rows + 1, dtype=np.int32) * len(columns)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def _decision_ids(rows: pa.Table, column: str | None, first: int) -> list[bytes]:
    """Sixteen bytes a row; binary ids of so many bytes are taken as they are."""
    if column is None:
        return [(first + row).to_bytes(DECISION_ID_BYTES, "little") for row in range(rows.num_rows)]
    given = (one if isinstance(one, bytes) else str(one).encode() for one in rows[column].to_pylist())
    return [one if len(one) == DECISION_ID_BYTES else hashlib.blake2b(one, digest_size=DECISION_ID_BYTES).digest() for one in given]


def _refuse_strangers(rows: pa.Table, strange: npt.NDArray[np.bool_], column: str, first: int) -> None:
    """Raises SourceError for a row whose action is not among its candidates."""
    if len(wrong := np.argwhere(strange)):
        row, slot = wrong[0]
        action = _texts(rows, column)[int(row)].as_py()[slot]
        raise SourceError(f"column {column!r}: {action!r} in row {first + row} is not among the row's candidates; map the row's own list")
