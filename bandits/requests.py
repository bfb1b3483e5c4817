"""Requests as columns: what the compiled programs take, from a server's messages or from a log."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bandits.errors import FeatureError
from bandits.keys import draw_key, sticky_key
from bandits.slates import ABSENT

__all__ = ["Requests", "logged_draw_key", "requests_from_observations"]

# Columns that say which key a logged decision was drawn by.
_KEYED_BY = ("decision_id", "draw_by", "task", "unit_id", "epoch")


class Requests(NamedTuple):
    """n requests, columnar, padded to K candidates.

    `context` f32[n, d] encoded, raw units; `actions` i32[n, K] index into the snapshot's action table, its length = unknown (cold);
    `features` f32[n, K, f]; `scores` f64[n, K] of an external ranker, 0 where none came; `eligible` bool[n, K], False for padding;
    `slots` i32[n] slate size; `draw_key` u32[n, 2].
    """

    context: np.ndarray
    actions: np.ndarray
    features: np.ndarray
    scores: np.ndarray
    eligible: np.ndarray
    slots: np.ndarray
    draw_key: np.ndarray

    # The number of requests, not of fields; so `_replace` refuses to work: name the columns.
    @classmethod
    def of(
        cls,
        context: np.ndarray,
        actions: np.ndarray,
        *,
        slots: np.ndarray | int = 1,
        draw_key: np.ndarray | None = None,
        features: np.ndarray | None = None,
        scores: np.ndarray | None = None,
        eligible: np.ndarray | None = None,
    ) -> "Requests":
        """Requests with what most callers leave out: one slot, key 0, no action features, no external scores, all eligible.

        `actions` i32[K] stands for every request, or i32[n, K].
        """
        n = len(context)
        table = np.broadcast_to(np.asarray(actions, np.int32), (n, np.shape(actions)[-1])).copy()
        return cls(
            context=np.asarray(context, np.float32),
            actions=table,
            features=np.zeros((*table.shape, 0), np.float32) if features is None else np.asarray(features, np.float32),
            scores=np.zeros(table.shape) if scores is None else np.asarray(scores, np.float64),
            eligible=np.ones(table.shape, bool) if eligible is None else np.asarray(eligible, bool),
            slots=np.broadcast_to(np.asarray(slots, np.int32), n).copy(),
            draw_key=np.zeros((n, 2), np.uint32) if draw_key is None else np.asarray(draw_key, np.uint32),
        )

    @property
    def n_rows(self) -> int:
        """n; not `len`: a named tuple that redefines it loses `_replace`."""
        return int(self.context.shape[0])


def requests_from_observations(
    rows: pa.Table, *, actions: Sequence[str], context_size: int, feature_size: int
) -> tuple[Requests, np.ndarray]:
    """The requests of logged decisions, and their slates: i32[n, L] indices into each row's candidates, ABSENT where there is no slot.

    `rows` has the columns of protos.observations. Raises FeatureError if a row's vectors have other sizes than the schema.
    """
    n = rows.num_rows
    candidates = _ragged(rows["candidate_actions"])
    slots = _ragged(rows["slot_action"])
    codes = pc.unique(pa.concat_arrays([candidates.values, slots.values]))
    candidate_code = candidates.matrix(_codes(candidates.values, codes), fill=-2)
    slot_code = slots.matrix(_codes(slots.values, codes), fill=-3)
    match = candidate_code[:, None, :] == slot_code[:, :, None]
    slates = np.where(match.any(axis=2), match.argmax(axis=2), ABSENT).astype(np.int32)
    table = {action: index for index, action in enumerate(actions)}
    index_of_code = np.array([table.get(code, len(actions)) for code in codes.to_pylist()] or [0], dtype=np.int32)
    present = candidate_code >= 0
    requests = Requests(
        context=_vectors(rows["context"], n, context_size, "context"),
        actions=np.where(present, index_of_code[np.maximum(candidate_code, 0)], len(actions)).astype(np.int32),
        features=_candidate_features(rows, candidates, feature_size),
        scores=_candidate_scores(rows, candidates),
        eligible=present & _eligible(rows, candidates),
        slots=slots.lengths.astype(np.int32),
        draw_key=_draw_keys(rows),
    )
    return requests, slates


class _Ragged(NamedTuple):
    """A column of lists: all values behind each other, and the length of each list."""

    values: pa.Array
    lengths: np.ndarray

    def matrix(self, flat: np.ndarray, *, fill: object) -> np.ndarray:
        """`flat` (one entry a value) as [n, longest], filled up with `fill`."""
        width = max(int(self.lengths.max(initial=0)), 1)
        grid = np.full((len(self.lengths), width, *flat.shape[1:]), fill, dtype=flat.dtype)
        grid[np.arange(width)[None, :] < self.lengths[:, None]] = flat
        return grid


def _ragged(column: pa.ChunkedArray) -> _Ragged:
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0) if lists.num_chunks else pa.array([], column.type)
    return _Ragged(
        values=lists.flatten(), lengths=pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    )


def _codes(values: pa.Array, codes: pa.Array) -> np.ndarray:
    return pc.index_in(values, codes).to_numpy(zero_copy_only=False).astype(np.int64)


def _vectors(column: pa.ChunkedArray, n: int, size: int, field: str) -> np.ndarray:
    ragged = _ragged(column)
    if not (ragged.lengths == size).all():
        found = int(ragged.lengths[ragged.lengths != size][0])
        raise FeatureError(f"{field}: a logged vector has {found} numbers, the schema {size}; use the snapshot of that schema", field=field)
    return ragged.values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(n, size)


def _candidate_features(rows: pa.Table, candidates: _Ragged, size: int) -> np.ndarray:
    if size == 0:
        return np.zeros((rows.num_rows, max(int(candidates.lengths.max(initial=0)), 1), 0), dtype=np.float32)
    packed = _ragged(rows["candidate_packed_features"])
    if not (packed.lengths == candidates.lengths * size).all():
        field = "candidates.packed_features"
        raise FeatureError(f"{field}: a logged row has not {size} numbers a candidate; use the snapshot of its schema", field=field)
    flat = packed.values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, size)
    return candidates.matrix(flat, fill=0.0)


def _candidate_scores(rows: pa.Table, candidates: _Ragged) -> np.ndarray:
    """External scores by candidate; a row that lists none has zeros."""
    logged = _ragged(rows["candidate_scores"])
    if not np.isin(logged.lengths - candidates.lengths * (logged.lengths > 0), 0).all():
        field = "candidates.scores"
        raise FeatureError(f"{field}: a logged row has not one score a candidate; the log is damaged", field=field)
    scores = np.zeros((rows.num_rows, max(int(candidates.lengths.max(initial=0)), 1)))
    filled = logged.matrix(logged.values.to_numpy(zero_copy_only=False).astype(np.float64), fill=0.0)
    scores[:, : filled.shape[1]] = filled[:, : scores.shape[1]]
    return scores


def _eligible(rows: pa.Table, candidates: _Ragged) -> np.ndarray:
    """Eligibility by candidate; a row that lists none has all eligible."""
    logged = _ragged(rows["candidate_eligible"])
    flags = logged.matrix(logged.values.to_numpy(zero_copy_only=False).astype(bool), fill=True)
    width = max(int(candidates.lengths.max(initial=0)), 1)
    result = np.ones((rows.num_rows, width), dtype=bool)
    result[:, : min(width, flags.shape[1])] = flags[:, :width]
    return result


def _draw_keys(rows: pa.Table) -> np.ndarray:
    columns = (rows[name].to_pylist() for name in _KEYED_BY)
    keys = [logged_draw_key(**dict(zip(_KEYED_BY, row, strict=True))) for row in zip(*columns, strict=True)]
    return np.array(keys, dtype=np.uint32).reshape(-1, 2)


def logged_draw_key(*, decision_id: bytes, draw_by: str, task: str, unit_id: str, epoch: int) -> np.ndarray:
    """Key of a logged decision's draws, u32[2]: by its id, or by unit, or by unit and epoch, as `draw_by` says (empty = by its id)."""
    if draw_by in ("", "decision"):
        return draw_key(decision_id)
    return sticky_key(task=task, unit_id=unit_id, epoch=epoch if draw_by == "unit+epoch" else 0)
