"""Policies that are scored and logged beside the one that decides, and never shown: later, together, in a thread of their own.

A call leaves what was decided in a queue and goes on. The thread takes many at a time, since a decision in a compiled batch costs a
fraction of one alone, and writes one record for them. What comes faster than it is scored is left out, and counted.
"""

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bandits.loaded import LoadedPolicy
from bandits.packed import RowLayout
from bandits.planout import uniform
from bandits.requests import logged_draw_key
from bandits.slates import ABSENT
from protos.events_pb2 import ShadowScores
from protos.framing import frame
from serving.decide import Asked, draw_epoch, row_of
from serving.errors import LogUnavailable
from serving.snapshots import Served
from serving.tasks import TaskRules
from serving.traffic.beside import Shadowed, policy_of
from serving.validate import Selection

__all__ = ["Shadows", "ToScore", "to_score"]

_logger = logging.getLogger(__name__)
# Scored together at most: one bucket. Nobody waits for a score, so the thread waits for company.
_TOGETHER, _WAIT_S = 64, 0.05


class ToScore(NamedTuple):
    """A decision as a shadow sees it: the compiled `shape` (candidates, slots) that it was decided in, and its request as a row of words
    for any policy."""

    rules: TaskRules
    unit_id: str
    decision_id: bytes
    actions: tuple[str, ...]
    shape: tuple[int, int]
    row_for: Callable[[LoadedPolicy], bytes]


def to_score(asked: Asked, decision_id: bytes) -> ToScore:
    """The decision of a selection."""
    selection, rules = asked.selection, asked.selection.rules
    actions = selection.candidates.actions
    shape = rules.shapes.of(len(actions), selection.slate_size)
    return ToScore(rules, selection.unit_id, decision_id, actions, shape, functools.partial(_row, selection, decision_id, shape[0]))


def _row(selection: Selection, decision_id: bytes, width: int, policy: LoadedPolicy) -> bytes:
    layout = RowLayout(selection.rules.context_size, width, selection.rules.feature_size)
    return row_of(selection, policy, _key(selection, decision_id), layout)


def _key(selection: Selection, decision_id: bytes) -> bytes:
    """The key that the decision was drawn by."""
    draw_by = selection.rules.policy.section.draw_by
    if draw_by == "decision":
        return decision_id[:8]
    about = {"draw_by": draw_by, "task": selection.rules.name, "unit_id": selection.unit_id}
    key = logged_draw_key(decision_id=decision_id, epoch=draw_epoch(selection), **about)
    return key.astype("<u4").tobytes()


class _Waiting(NamedTuple):
    """A decision, and the shadow that is to be scored for it."""

    name: str
    policy: LoadedPolicy
    decided: ToScore


class Shadows:
    """The queue and its thread. `take` may be called from any thread."""

    def __init__(self, append_framed: Callable[[Callable[[int], bytes]], object], *, most: int = 4096) -> None:
        """`append_framed(frame)` appends the records that `frame` makes for a time; `most`: decisions that may wait."""
        self._append_framed, self._most = append_framed, most
        self._queue: deque[_Waiting] = deque()
        self._stop = threading.Event()
        #: Scored, and left out because too many waited.
        self.scored = self.left_out = 0
        self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
        self._thread.start()

    def take(self, decided: Iterable[ToScore], shadows: Sequence[Shadowed], served: Served) -> None:
        """Leaves decisions for later."""
        for one in decided:
            for shadow in shadows:
                if shadow.share < 1 and uniform(f"shadow.{shadow.name}", one.unit_id) >= shadow.share:
                    continue
                if len(self._queue) >= self._most:
                    self.left_out += 1
                    continue
                self._queue.append(_Waiting(shadow.name, policy_of(shadow.policy, served), one))

    def close(self) -> None:
        """Scores what waits, and ends."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            if len(self._queue) < _TOGETHER:
                self._stop.wait(_WAIT_S)
            self._turn()
        while self._queue:
            self._turn()

    def _turn(self) -> None:
        taken = [self._queue.popleft() for _ in range(min(len(self._queue), _TOGETHER))]
        # A snapshot is of one task.
        groups: dict[tuple[str, str, tuple[int, int]], list[_Waiting]] = {}
        for item in taken:
            groups.setdefault((item.name, item.policy.digest, item.decided.shape), []).append(item)
        for (name, _, _), group in groups.items():
            try:
                scores = _scores(group[0], [item.decided for item in group])
                self._append_framed(functools.partial(_framed, scores))
                self.scored += len(group)
            except LogUnavailable:
                self.left_out += len(group)
            except Exception:
                # A shadow must not take anything with it.
                self.left_out += len(group)
                _logger.exception("shadow %s of task %s could not be scored", name, group[0].decided.rules.name)


def _scores(shadow: _Waiting, decided: Sequence[ToScore]) -> ShadowScores:
    """What the shadow would have done; all of one task and shape."""
    policy, rules, (width, slots) = shadow.policy, shadow.decided.rules, shadow.decided.shape
    layout = RowLayout(rules.context_size, width, rules.feature_size)
    rows = b"".join([one.row_for(policy) for one in decided])
    outputs = policy.decide_rows(np.frombuffer(rows, np.uint32).reshape(len(decided), layout.words), layout=layout, slots=slots)
    slates = outputs.slates.tolist()
    actions = ["" if place == ABSENT else one.actions[place] for one, slate in zip(decided, slates, strict=True) for place in slate]
    return ShadowScores(
        tenant=rules.tenant,
        task=rules.name,
        name=shadow.name,
        policy=policy.manifest.policy,
        snapshot_digest=policy.digest,
        decision_ids=b"".join([one.decision_id for one in decided]),
        slots=outputs.slates.shape[1],
        actions=actions,
        numerators=outputs.numerators.astype("<u4").tobytes(),
        scores=outputs.mean.astype("<f8").tobytes(),
    )


def _framed(scores: ShadowScores, now_us: int) -> bytes:
    scores.append_time_us = now_us
    return frame(scores.SerializeToString())
