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

__all__ = ["Shadows"]

_logger = logging.getLogger(__name__)
# Scored together at most: one bucket. Nobody waits for a score, so the thread waits for company.
_TOGETHER, _WAIT_S = 64, 0.05


class _Waiting(NamedTuple):
    """A decision that a shadow is to be scored for."""

    name: str
    policy: LoadedPolicy
    selection: Selection
    decision_id: bytes
    rules: TaskRules


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

    def take(self, decided: Iterable[tuple[Asked, bytes]], shadows: Sequence[Shadowed], served: Served) -> None:
        """Leaves decisions, each with its id, for later."""
        for asked, decision_id in decided:
            selection = asked.selection
            for shadow in shadows:
                if shadow.share < 1 and uniform(f"shadow.{shadow.name}", selection.unit_id) >= shadow.share:
                    continue
                if len(self._queue) >= self._most:
                    self.left_out += 1
                    continue
                self._queue.append(_Waiting(shadow.name, policy_of(shadow.policy, served), selection, decision_id, selection.rules))

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
        groups: dict[tuple[str, str, tuple[int, int]], list[_Waiting]] = {}
        for item in taken:
            shape = item.rules.shapes.of(len(item.selection.candidates.actions), item.selection.slate_size)
            groups.setdefault((item.name, item.policy.digest, shape), []).append(item)
        for (_, _, (width, slots)), group in groups.items():
            try:
                scores = _scores(group, width=width, slots=slots)
                self._append_framed(functools.partial(_framed, scores))
                self.scored += len(group)
            except LogUnavailable:
                self.left_out += len(group)
            except Exception:
                # A shadow must not take anything with it.
                self.left_out += len(group)
                _logger.exception("shadow %s of task %s could not be scored", group[0].name, group[0].rules.name)


def _scores(group: Sequence[_Waiting], *, width: int, slots: int) -> ShadowScores:
    """What the shadow would have done; all of one shadow and shape."""
    policy, rules = group[0].policy, group[0].rules
    layout = RowLayout(rules.context_size, width, rules.feature_size)
    rows = b"".join([row_of(item.selection, policy, _key(item), layout) for item in group])
    outputs = policy.decide_rows(np.frombuffer(rows, np.uint32).reshape(len(group), layout.words), layout=layout, slots=slots)
    slates = outputs.slates.tolist()
    actions = [
        "" if place == ABSENT else item.selection.candidates.actions[place]
        for item, slate in zip(group, slates, strict=True)
        for place in slate
    ]
    return ShadowScores(
        tenant=rules.tenant,
        task=rules.name,
        name=group[0].name,
        policy=policy.manifest.policy,
        snapshot_digest=policy.digest,
        decision_ids=b"".join([item.decision_id for item in group]),
        slots=outputs.slates.shape[1],
        actions=actions,
        numerators=outputs.numerators.astype("<u4").tobytes(),
        scores=outputs.mean.astype("<f8").tobytes(),
    )


def _key(item: _Waiting) -> bytes:
    """The key that the decision was drawn by."""
    draw_by = item.rules.policy.section.draw_by
    if draw_by == "decision":
        return item.decision_id[:8]
    about = {"draw_by": draw_by, "task": item.rules.name, "unit_id": item.selection.unit_id}
    key = logged_draw_key(decision_id=item.decision_id, epoch=draw_epoch(item.selection), **about)
    return key.astype("<u4").tobytes()


def _framed(scores: ShadowScores, now_us: int) -> bytes:
    scores.append_time_us = now_us
    return frame(scores.SerializeToString())
