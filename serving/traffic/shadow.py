"""Policies that are scored and logged beside the one that decides, and never shown: later, together, in a thread of their own.

A call leaves what was decided in a queue and goes on. The thread takes many at a time, since a decision in a compiled batch costs a
fraction of one alone, and writes one record for them. What comes faster than it is scored is left out, and counted.
"""

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bandits.loaded import LoadedPolicy
from bandits.packed import RowLayout
from bandits.planout import uniform
from bandits.requests import logged_draw_key
from bandits.slates import ABSENT
from protos.events_pb2 import ShadowScores
from protos.framing import frame
from serving.decide import draw_epoch, row_of
from serving.errors import LogUnavailable
from serving.snapshots import Served
from serving.tasks import TaskKey, TaskRules
from serving.traffic.beside import Shadowed, policy_of
from serving.validate import Selection

__all__ = ["Shadows", "ToScore", "to_score"]

_logger = logging.getLogger(__name__)
# Scored together, the largest compiled batch, or as many as have come. Nobody waits for a score, so the thread waits for company.
_TOGETHER, _WAIT_S = 256, 0.05


class ToScore(NamedTuple):
    """Decisions of one task that were decided in one compiled `shape` (candidates, slots), as shadows see them: columns of n, and the
    requests as rows of words u32[n, words] for any policy."""

    rules: TaskRules
    shape: tuple[int, int]
    units: Sequence[str]
    ids: Sequence[bytes]
    actions: Sequence[tuple[str, ...]]
    rows_for: Callable[[LoadedPolicy], np.ndarray]

    @property
    def layout(self) -> RowLayout:
        """Of its rows."""
        return RowLayout(self.rules.context_size, self.shape[0], self.rules.feature_size)


def to_score(decided: Sequence[tuple[Selection, bytes]]) -> list[ToScore]:
    """Decisions of selections, each with its id."""
    groups: dict[tuple[TaskKey, tuple[int, int]], list[tuple[Selection, bytes]]] = {}
    for one in decided:
        selection = one[0]
        shape = selection.rules.shapes.of(len(selection.candidates.actions), selection.slate_size)
        groups.setdefault((selection.rules.key, shape), []).append(one)
    return [_as_columns(group, shape) for (_, shape), group in groups.items()]


def _as_columns(group: Sequence[tuple[Selection, bytes]], shape: tuple[int, int]) -> ToScore:
    selections, ids = zip(*group, strict=True)
    units, actions = [found.unit_id for found in selections], [found.candidates.actions for found in selections]
    return ToScore(selections[0].rules, shape, units, ids, actions, functools.partial(_rows, group, shape[0]))


def _rows(group: Sequence[tuple[Selection, bytes]], width: int, policy: LoadedPolicy) -> np.ndarray:
    rules = group[0][0].rules
    layout = RowLayout(rules.context_size, width, rules.feature_size)
    rows = b"".join([row_of(selection, policy, _key(selection, decision_id), layout) for selection, decision_id in group])
    return np.frombuffer(rows, np.uint32).reshape(len(group), layout.words)


def _key(selection: Selection, decision_id: bytes) -> bytes:
    """The key that the decision was drawn by."""
    draw_by = selection.rules.policy.section.draw_by
    if draw_by == "decision":
        return decision_id[:8]
    about = {"draw_by": draw_by, "task": selection.rules.name, "unit_id": selection.unit_id}
    key = logged_draw_key(decision_id=decision_id, epoch=draw_epoch(selection), **about)
    return key.astype("<u4").tobytes()


class _Waiting(NamedTuple):
    """The shadow that is to be scored, and the decisions for which: those at some places among others."""

    name: str
    policy: LoadedPolicy
    decided: ToScore
    places: Sequence[int]


class Shadows:
    """The queue and its thread. `take` may be called from any thread."""

    def __init__(self, append_framed: Callable[[Callable[[int], bytes]], object], *, most: int = 4096) -> None:
        """`append_framed(frame)` appends the records that `frame` makes for a time; `most`: decisions that may wait."""
        self._append_framed, self._most = append_framed, most
        self._queue: deque[_Waiting] = deque()
        # Decisions that wait, and who counts them.
        self._waiting, self._lock = 0, threading.Lock()
        self._stop = threading.Event()
        #: Scored, and left out because too many waited.
        self.scored = self.left_out = 0
        self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
        self._thread.start()

    def take(self, decided: ToScore, shadows: Sequence[Shadowed], served: Served) -> None:
        """Leaves decisions for later."""
        for shadow in shadows:
            places: Sequence[int] = range(len(decided.ids))
            if shadow.share < 1:
                places = [at for at in places if uniform(f"shadow.{shadow.name}", decided.units[at]) < shadow.share]
            with self._lock:
                room = max(self._most - self._waiting, 0)
                self.left_out += max(len(places) - room, 0)
                places = places[:room]
                self._waiting += len(places)
            if places:
                self._queue.append(_Waiting(shadow.name, policy_of(shadow.policy, served), decided, places))

    def close(self) -> None:
        """Scores what waits, and ends."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._waiting < _TOGETHER:
                self._stop.wait(_WAIT_S)
            self._turn()
        while self._queue:
            self._turn()

    def _turn(self) -> None:
        # A snapshot is of one task.
        groups: dict[tuple[str, str, tuple[int, int]], list[_Waiting]] = {}
        for item in self._taken():
            groups.setdefault((item.name, item.policy.digest, item.decided.shape), []).append(item)
        for group in groups.values():
            count = sum(len(item.places) for item in group)
            try:
                self._append_framed(functools.partial(_framed, _scores(group)))
                self.scored += count
            except LogUnavailable:
                self.left_out += count
            except Exception:
                # A shadow must not take anything with it.
                self.left_out += count
                _logger.exception("shadow %s of task %s could not be scored", group[0].name, group[0].decided.rules.name)

    def _taken(self) -> list[_Waiting]:
        """What waits, up to as many decisions as are scored together."""
        taken: list[_Waiting] = []
        count = 0
        while self._queue and count < _TOGETHER:
            taken.append(self._queue.popleft())
            count += len(taken[-1].places)
        with self._lock:
            self._waiting -= count
        return taken


def _scores(group: Sequence[_Waiting]) -> ShadowScores:
    """What a shadow would have done; all of one shadow and shape."""
    (name, policy, decided, _), slots = group[0], group[0].decided.shape[1]
    rows = np.concatenate([_rows_of(item) for item in group])
    outputs = policy.decide_rows(rows, layout=decided.layout, slots=slots)
    named = [item.decided.actions[at] for item in group for at in item.places]
    actions = ["" if at == ABSENT else own[at] for own, slate in zip(named, outputs.slates.tolist(), strict=True) for at in slate]
    return ShadowScores(
        tenant=decided.rules.tenant,
        task=decided.rules.name,
        name=name,
        policy=policy.manifest.policy,
        snapshot_digest=policy.digest,
        decision_ids=b"".join([item.decided.ids[at] for item in group for at in item.places]),
        slots=outputs.slates.shape[1],
        actions=actions,
        numerators=outputs.numerators.astype("<u4").tobytes(),
        scores=outputs.mean.astype("<f8").tobytes(),
    )


def _rows_of(item: _Waiting) -> np.ndarray:
    rows = item.decided.rows_for(item.policy)
    return rows if len(item.places) == len(rows) else rows[list(item.places)]


def _framed(scores: ShadowScores, now_us: int) -> bytes:
    scores.append_time_us = now_us
    return frame(scores.SerializeToString())
