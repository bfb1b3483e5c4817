"""Weights of policies on logged decisions, each computed once: for given snapshots a row's weights never change."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bandits.loaded import LoadedPolicy
from bandits.programs import OFFLINE_BUCKETS
from bandits.requests import Requests, requests_from_observations
from ope.observed import Observed
from ope.rows import Floats, prefix_weights

__all__ = ["COLUMNS", "Scores", "add_scores", "missing", "no_scores", "score", "weights"]

# What scoring reads of a row.
COLUMNS = (
    "decision_id",
    "decision_time_us",
    "task",
    "unit_id",
    "context",
    "candidate_actions",
    "candidate_eligible",
    "candidate_packed_features",
    "candidate_scores",
    "slot_action",
    "draw_by",
    "epoch",
)


class Scores(NamedTuple):
    """What P policies make of m decisions. L is as many slots as any of them has."""

    # Decision id -> its place in the arrays.
    place: dict[bytes, int]
    # Conditional numerators of the logged slates under each policy, u32[m, P, L].
    numerator: npt.NDArray[np.uint32]
    # Actions that were logged, and that the first policy would take with the row's own key, i32[m, L]; -1 = no such slot.
    logged: npt.NDArray[np.int32]
    taken: npt.NDArray[np.int32]


def no_scores(policies: int) -> Scores:
    """Scores of no decision yet, for so many policies."""
    no_actions = np.zeros((0, 1), np.int32)
    return Scores({}, np.zeros((0, policies, 1), np.uint32), no_actions, no_actions)


def missing(scores: Scores, decision_ids: list[bytes]) -> npt.NDArray[np.bool_]:
    """bool[n]: which decisions have no scores yet."""
    return np.array([decision_id not in scores.place for decision_id in decision_ids], bool)


def score(rows: pa.Table, policies: Sequence[LoadedPolicy]) -> Scores:
    """Scores of a table with COLUMNS, under each policy. Raises FeatureError if the rows lack a feature."""
    # Snapshots of one task mostly read rows alike.
    read: dict[tuple[tuple[str, ...], tuple[int, ...]], tuple[Requests, npt.NDArray[np.int32]]] = {}
    numerators = []
    for policy in policies:
        kind = (tuple(policy.manifest.actions), tuple(policy.manifest.dims))
        read[kind] = read.get(kind) or _requests(rows, policy)
        numerators.append(policy.slate_numerators(*read[kind]))
    requests, slates = next(iter(read.values()))
    taken = policies[0].decide(requests, slots=slates.shape[1], buckets=OFFLINE_BUCKETS).slates
    return Scores(
        place={decision_id: place for place, decision_id in enumerate(rows["decision_id"].to_pylist())},
        numerator=np.stack(numerators, axis=1),
        logged=_actions(requests.actions, slates),
        taken=_actions(requests.actions, taken),
    )


def add_scores(old: Scores, new: Scores) -> Scores:
    """The scores of both; a decision of `new` stands behind those of `old`."""
    slots = max(old.logged.shape[1], new.logged.shape[1])
    place = old.place | {decision_id: len(old.logged) + at for decision_id, at in new.place.items()}
    numerator = np.concatenate([_widen(part.numerator, slots, 0) for part in (old, new)])
    logged, taken = (np.concatenate([_widen(getattr(part, name), slots, -1) for part in (old, new)]) for name in ("logged", "taken"))
    return Scores(place, numerator, logged, taken)


def weights(scores: Scores, rows: Observed) -> tuple[list[Floats], npt.NDArray[np.bool_]]:
    """Prefix weights of each policy, f64[n, L], and which rows hold a choice of the first policy that no row logged.

    Raises RowsError for a logged numerator of 0.
    """
    at = np.array([scores.place[decision_id] for decision_id in rows.decision_id], np.intp)
    slots, policies = rows.present.shape[1], range(scores.numerator.shape[1])
    numerator = _widen(scores.numerator[at], slots, 0)[..., :slots].astype(np.float64)
    by_policy = [prefix_weights(target=numerator[:, p], logged=rows.numerator, present=rows.present) for p in policies]
    taken, logged = scores.taken[at], scores.logged[at]
    strange = np.any((taken >= 0) & ~np.isin(taken, np.unique(logged)), axis=1)
    return by_policy, np.asarray(strange, np.bool_)


def _requests(rows: pa.Table, policy: LoadedPolicy) -> tuple[Requests, npt.NDArray[np.int32]]:
    _, context_size, feature_size = policy.manifest.dims
    return requests_from_observations(rows, actions=policy.manifest.actions, context_size=context_size, feature_size=feature_size)


def _actions(candidates: npt.NDArray[np.int32], slates: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Action of each slot of slates that index into candidates; -1 where there is none."""
    found = np.take_along_axis(candidates, np.maximum(slates, 0), axis=1)
    return np.where(slates >= 0, found, -1).astype(np.int32)


def _widen(array: npt.NDArray[np.generic], slots: int, fill: int) -> npt.NDArray[np.generic]:
    """`array` [..., l] with the last axis at least `slots` long."""
    extra = max(slots - array.shape[-1], 0)
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, extra)], constant_values=fill)
