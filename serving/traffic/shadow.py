"""Policies that are scored and logged beside the one that decides, and never shown: later, together, in a thread of their own.

A call leaves what was decided in a queue and goes on. The thread takes many at a time, since a decision in a compiled batch costs a
fraction of one alone, and writes one record for them. What comes faster than it is scored is left out, and counted.
"""

import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bandits.keys import DECISION_ID_BYTES
from bandits.loaded import LoadedPolicy
from bandits.packed import RowLayout
from bandits.planout import uniform
from bandits.programs import empty_rows
from bandits.requests import logged_draw_key
from protos.events_pb2 import ShadowScores
from protos.framing import frame
from serving.candidates import CandidateList
from serving.decide import draw_epoch, row_of
from serving.errors import LogUnavailable
from serving.snapshots import Served
from serving.tasks import TaskKey, TaskRules
from serving.traffic.beside import Shadowed, policy_of
from serving.validate import Selection

__all__ = ["Shadows", "ToScore", "shares_units", "to_score"]

_logger = logging.getLogger(__name__)
# Scored together, the largest compiled batch, or as many as have come. Nobody waits for a score, so the thread waits for company.
_TOGETHER, _WAIT_S = 256, 0.05
# CPU time that the thread may have saved up, and what it may take of each second in any case: an idle server's shadows score everything.
_SAVED_S, _ALWAYS = 0.5, 0.01


class ToScore(NamedTuple):
    """Decisions of one task that were decided in one compiled `shape` (candidates, slots), as shadows see them: columns of n.

    `ids` of 16 bytes each. `units` or none at all, where no shadow has a share of them. Decision i has the candidates `lists[which[i]]`;
    `which` i32[n], or None where all have the only list. `write_rows(policy, places, into)`: writes the requests at some places (None =
    all) as rows of words for any policy, u32[n, words].
    """

    rules: TaskRules
    shape: tuple[int, int]
    units: Sequence[str]
    ids: bytes
    lists: Sequence[CandidateList]
    which: np.ndarray | None
    write_rows: Callable[[LoadedPolicy, np.ndarray | None, np.ndarray], None]

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.ids) // DECISION_ID_BYTES

    @property
    def layout(self) -> RowLayout:
        """Of its rows."""
        return RowLayout(self.rules.context_size, self.shape[0], self.rules.feature_size)


def shares_units(shadows: Sequence[Shadowed]) -> bool:
    """Must they be told the units of decisions?"""
    return any(shadow.share < 1 for shadow in shadows)


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
    places: dict[CandidateList, int] = {}
    listed = [places.setdefault(found.candidates, len(places)) for found in selections]
    which = np.array(listed, np.int32) if len(places) > 1 else None
    units = [found.unit_id for found in selections]
    return ToScore(selections[0].rules, shape, units, b"".join(ids), list(places), which, functools.partial(_write_rows, group, shape[0]))


def _write_rows(
    group: Sequence[tuple[Selection, bytes]], width: int, policy: LoadedPolicy, places: np.ndarray | None, into: np.ndarray
) -> None:
    rules = group[0][0].rules
    layout = RowLayout(rules.context_size, width, rules.feature_size)
    found = group if places is None else [group[place] for place in places]
    rows = b"".join([row_of(selection, policy, _key(selection, decision_id), layout) for selection, decision_id in found])
    into[:] = np.frombuffer(rows, np.uint32).reshape(into.shape)


def _key(selection: Selection, decision_id: bytes) -> bytes:
    """The key that the decision was drawn by."""
    draw_by = selection.rules.policy.section.draw_by
    if draw_by == "decision":
        return decision_id[:8]
    about = {"draw_by": draw_by, "task": selection.rules.name, "unit_id": selection.unit_id}
    key = logged_draw_key(decision_id=decision_id, epoch=draw_epoch(selection), **about)
    return key.astype("<u4").tobytes()


class _Waiting(NamedTuple):
    """The shadow that is to be scored, and the decisions for which: those at some places among others; None = all of them."""

    name: str
    policy: LoadedPolicy
    decided: ToScore
    places: np.ndarray | None

    @property
    def size(self) -> int:
        """Of decisions."""
        return self.decided.size if self.places is None else len(self.places)

    def cut(self, count: int) -> tuple["_Waiting", "_Waiting"]:
        """The first so many decisions, and the others."""
        places = np.arange(self.size) if self.places is None else self.places
        return self._replace(places=places[:count]), self._replace(places=places[count:])

    def ids(self) -> bytes:
        """Of the decisions, joined."""
        ids = self.decided.ids
        return ids if self.places is None else np.frombuffer(ids, np.uint8).reshape(-1, DECISION_ID_BYTES)[self.places].tobytes()

    def actions(self, slates: np.ndarray) -> list[str]:
        """Names of the candidates in slates i32[count, L]; "" where a slot is absent."""
        lists, which = self.decided.lists, self.decided.which
        if which is None:
            return _named(lists[0], slates)
        which = which if self.places is None else which[self.places]
        return [name for place, slate in zip(which.tolist(), slates, strict=True) for name in _named(lists[place], slate)]


class _Budget:
    """CPU time that a thread may take: a share of what the rest of the process takes, or `_ALWAYS` of the time where that is more, and
    `_SAVED_S` at once. For that thread alone."""

    def __init__(self, share: float) -> None:
        self._share, self._left_s = share, _SAVED_S
        self._now_s, self._mine_s, self._all_s = time.monotonic(), time.thread_time(), time.process_time()

    def is_left(self) -> bool:
        """May it go on?"""
        now_s, mine_s, all_s = time.monotonic(), time.thread_time(), time.process_time()
        spent_s = mine_s - self._mine_s
        earned_s = max(self._share * (all_s - self._all_s - spent_s), _ALWAYS * (now_s - self._now_s))
        self._now_s, self._mine_s, self._all_s = now_s, mine_s, all_s
        self._left_s = min(self._left_s + earned_s - spent_s, _SAVED_S)
        return self._left_s > 0


class Shadows:
    """The queue and its thread. `leave` and `take` may be called from any thread."""

    def __init__(
        self, append_framed: Callable[[Callable[[int], bytes]], object], *, most: int = 4096, cpu_share: float | None = None
    ) -> None:
        """`append_framed(frame)` appends the records that `frame` makes for a time; `most`: decisions that may wait; `cpu_share`: what
        the thread may take of the CPU time of the rest of the process; None = what it needs."""
        self._append_framed, self._most, self._cpu_share = append_framed, most, cpu_share
        self._left: deque[tuple[Selection, bytes, Served]] = deque()
        self._queue: deque[_Waiting] = deque()
        # Decisions that wait, and who counts them.
        self._waiting, self._lock = 0, threading.Lock()
        self._stop = threading.Event()
        # Of the thread, which has its own clock.
        self._budget: _Budget | None = None
        #: The thread has had its share of the CPU: nobody need tell it of more now, only how many they were (`pass_over`).
        self.rests = False
        #: Scored; left out because too many waited or they could not be scored; left out because the thread had had its share of the CPU.
        self.scored = self.left_out = self.over_budget = 0
        self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
        self._thread.start()

    def pass_over(self, count: int) -> None:
        """So many decisions, of each shadow one, were not told while the thread rests."""
        with self._lock:
            self.over_budget += count

    def leave(self, selection: Selection, decision_id: bytes, served: Served) -> None:
        """Leaves one decision for later, of a task that has shadows: the thread sorts them, many at a time."""
        if self.rests and served.beside is not None:
            self.pass_over(len(served.beside.shadows))
        elif len(self._left) < self._most:
            self._left.append((selection, decision_id, served))
        elif served.beside is not None:
            with self._lock:
                self.left_out += len(served.beside.shadows)

    def take(self, decided: ToScore, shadows: Sequence[Shadowed], served: Served) -> None:
        """Leaves decisions of one shape for later."""
        for shadow in shadows:
            places = None if shadow.share >= 1 else _drawn(shadow, decided.units)
            found = _Waiting(shadow.name, policy_of(shadow.policy, served), decided, places)
            with self._lock:
                room = max(self._most - self._waiting, 0)
                if found.size > room:
                    self.left_out += found.size - room
                    found, _ = found.cut(room)
                self._waiting += found.size
            if found.size:
                self._queue.append(found)

    def close(self) -> None:
        """Scores what waits, and ends."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if self._cpu_share is not None:
            self._budget = _Budget(self._cpu_share)
        while not self._stop.is_set():
            self.rests = self._budget is not None and not self._budget.is_left()
            if self.rests:
                self._stop.wait(_WAIT_S)
                continue
            if self._waiting + len(self._left) < _TOGETHER:
                self._stop.wait(_WAIT_S)
            self._turn()
        # The last ones are few, and nobody is slowed down any more.
        self._budget = None
        while self._queue or self._left:
            self._turn()

    def _sort(self) -> None:
        """Takes what was left one by one."""
        # Of one task, as it was served when they were decided.
        groups: dict[int, tuple[Served, list[tuple[Selection, bytes]]]] = {}
        for _ in range(len(self._left)):
            selection, decision_id, served = self._left.popleft()
            groups.setdefault(id(served), (served, []))[1].append((selection, decision_id))
        for served, decided in groups.values():
            shadows = served.beside.shadows if served.beside is not None else ()
            with self._harmless(len(decided) * len(shadows), decided[0][0].rules.name):
                for found in to_score(decided):
                    self.take(found, shadows, served)

    def _turn(self) -> None:
        self._sort()
        # A snapshot is of one task.
        groups: dict[tuple[str, str, tuple[int, int]], list[_Waiting]] = {}
        for item in self._taken():
            groups.setdefault((item.name, item.policy.digest, item.decided.shape), []).append(item)
        for group in groups.values():
            count = sum(item.size for item in group)
            if self._budget is not None and not self._budget.is_left():
                self.pass_over(count)
                continue
            with self._harmless(count, group[0].decided.rules.name):
                self._append_framed(functools.partial(_framed, _scores(group)))
                self.scored += count

    @contextlib.contextmanager
    def _harmless(self, count: int, task: str) -> Iterator[None]:
        """A shadow must not take anything with it: what fails within leaves so many decisions out."""
        try:
            yield
        except Exception as error:
            with self._lock:
                self.left_out += count
            # A log that takes nothing is told of elsewhere.
            if not isinstance(error, LogUnavailable):
                _logger.exception("shadows of task %s: %d decisions could not be scored", task, count)

    def _taken(self) -> list[_Waiting]:
        """What waits, up to as many decisions as are scored together."""
        taken: list[_Waiting] = []
        count = 0
        while self._queue and count < _TOGETHER:
            item = self._queue.popleft()
            if item.size > _TOGETHER - count:
                # A few more would be a call of their own.
                item, rest = item.cut(_TOGETHER - count)
                self._queue.appendleft(rest)
            taken.append(item)
            count += item.size
        with self._lock:
            self._waiting -= count
        return taken


def _drawn(shadow: Shadowed, units: Sequence[str]) -> np.ndarray:
    """Places of the units that are in a shadow's share."""
    return np.array([at for at, unit in enumerate(units) if uniform(f"shadow.{shadow.name}", unit) < shadow.share], np.intp)


def _scores(group: Sequence[_Waiting]) -> ShadowScores:
    """What a shadow would have done; all of one shadow and shape."""
    name, policy, decided, _ = group[0]
    rows = empty_rows(sum(item.size for item in group), decided.layout)
    start = 0
    for item in group:
        item.decided.write_rows(policy, item.places, rows[start : start + item.size])
        start += item.size
    outputs = policy.decide_rows(rows, layout=decided.layout, slots=decided.shape[1])
    actions: list[str] = []
    for item in group:
        at = len(actions) // decided.shape[1]
        actions += item.actions(outputs.slates[at : at + item.size])
    return ShadowScores(
        tenant=decided.rules.tenant,
        task=decided.rules.name,
        name=name,
        policy=policy.manifest.policy,
        snapshot_digest=policy.digest,
        decision_ids=b"".join([item.ids() for item in group]),
        slots=outputs.slates.shape[1],
        actions=actions,
        numerators=outputs.numerators.astype("<u4").tobytes(),
        scores=outputs.mean.astype("<f8").tobytes(),
    )


def _named(listed: CandidateList, slates: np.ndarray) -> list[str]:
    names: list[str] = listed.names[slates].ravel().tolist()
    return names


def _framed(scores: ShadowScores, now_us: int) -> bytes:
    scores.append_time_us = now_us
    return frame(scores.SerializeToString())
