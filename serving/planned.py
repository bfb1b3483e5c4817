"""Plain requests that come together, decided without a Python object a request: the native front reads them and writes what they become.

What stays here: which policy decides and in which arm a unit is (`Served.assigned`), what was answered to a request id before
(`RequestMemory`), the program that decides, and what shadows are told. Requests of tasks whose actions are ranges or whose decisions
depend on what is beside them (serving/traffic), and whatever `serving.plain` would not read, are left to the engine, which is the
definition of all of it: a test compares the bytes.
"""

import functools
import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bandits.keys import around_request, around_unit
from bandits.loaded import LoadedPolicy
from bandits.packed import RowLayout
from bandits.traffic import Assignment
from serving.candidates import KEPT_LISTS, CandidateList
from serving.decide import epoch_of
from serving.errors import LogUnavailable, RequestIdReused, ServingError
from serving.idempotency import RequestMemory
from serving.observers import Observed, Observer
from serving.plain import around_context, listed_of, spans, task_heads
from serving.record import DecidedBy, shared_fields
from serving.servicer import results
from serving.snapshots import WHOLE, Served, SnapshotHolder
from serving.tasks import TaskKey, TaskRules
from serving.traffic.shadow import Shadows, ToScore, shares_units

__all__ = ["Planned", "PlannedBatches", "Ready"]

_logger = logging.getLogger(__name__)


class _Arm(NamedTuple):
    """Who decides for some units, and in which arm."""

    policy: LoadedPolicy
    assignment: Assignment


class _Kept(NamedTuple):
    """What the planner was told of a task: it is told anew when the task's rules or snapshots are others. `arms` as they were met."""

    rules: TaskRules
    served: Served
    arms: list[_Arm]


class Ready(NamedTuple):
    """Requests that were read, laid out in `groups`, and are still to be decided by what was `kept` when they were.

    `claimed`: place and key of those whose answers are to be remembered. `read_s`: how long all of that took.
    """

    plan: Any
    groups: list[tuple[int, int, int, int, bytes]]
    kept: tuple[_Kept | None, ...]
    claimed: list[tuple[int, tuple[str, str, str]]]
    read_s: float


class Planned:
    """Answers what is plain of a batch. Thread-safe."""

    def __init__(
        self,
        planner: Any,
        *,
        holders: Mapping[TaskKey, SnapshotHolder],
        append_framed: Callable[[Callable[[int], bytes]], object],
        memory: RequestMemory,
        observer: Observer,
        shadows: Shadows | None = None,
    ) -> None:
        """`append_framed(frame)` appends the records that `frame` makes for a time, or raises LogUnavailable. `memory` and `shadows`: the
        engine's."""
        self._planner = planner
        self._holders = list(holders.values())
        self._kept: list[_Kept | None] = [None] * len(self._holders)
        self._append_framed = append_framed
        self._memory = memory
        self._observer = observer
        self._shadows = shadows
        self._reading = threading.Lock()

    def answer(self, messages: Sequence[bytes]) -> Sequence[bytes | None]:
        """A serialised SelectResponse for each plain request, which then stands in the log; None for every other.

        Raises what the policy or the log raises: then nothing was answered.
        """
        ready = self._read(lambda planner: planner.read(messages))
        assert ready is not None
        return self._decided(ready, lambda plan: plan.responses())

    def read_batch(self, data: bytes) -> Ready | None:
        """The requests of a serialised SelectBatchRequest, for `answer_batch`; None where not all of them are plain."""
        return self._read(lambda planner: planner.read_batch(data))

    def answer_batch(self, ready: Ready) -> bytes | None:
        """A serialised SelectBatchResponse, whose decisions stand in the log; None where a request is left to the engine. Raises as
        `answer`."""
        return self._decided(ready, lambda plan: plan.batch_response())

    def _read(self, read: Callable[[Any], Any]) -> Ready | None:
        timer = self._observer.timer
        started_s = timer()
        # The planner asks us for what it does not know, so a lock that Python waits for is needed around it.
        with self._reading:
            for number, holder in enumerate(self._holders):
                self._tell(number, holder)
            plan = read(self._planner)
            if plan is None:
                return None
            kept = tuple(self._kept)
            for number, found in enumerate(kept):
                if found is not None and found.served.challenger is not None:
                    self._put_in_arms(plan, number, found)
            claimed = self._claim(plan, kept)
            try:
                groups = self._planner.group(plan)
            except BaseException:
                self._release(claimed)
                raise
        return Ready(plan, groups, kept, claimed, timer() - started_s)

    def _decided(self, ready: Ready, answers_of: Callable[[Any], Any]) -> Any:
        try:
            self._decide_all(ready)
        except BaseException:
            self._release(ready.claimed)
            raise
        if ready.claimed:
            self._remember(ready)
        return answers_of(ready.plan)

    def _decide_all(self, ready: Ready) -> None:
        timer, plan = self._observer.timer, ready.plan
        started_s = timer()
        for place, group in enumerate(ready.groups):
            self._decide(plan, place, ready.kept, *group)
        decided_s, decided = timer(), plan.decided if ready.groups else 0
        if decided:
            self._append_framed(plan.framed)
            if self._shadows is not None:
                self._leave_for_shadows(self._shadows, ready)
            self._observer.batch(Observed(decided, decided, ready.read_s, decided_s - started_s, timer() - decided_s))

    def _leave_for_shadows(self, shadows: Shadows, ready: Ready) -> None:
        for place, (number, _, width, slots, rows) in enumerate(ready.groups):
            kept = ready.kept[number]
            if kept is not None and kept.served.beside is not None and kept.served.beside.shadows:
                told = kept.served.beside.shadows
                if shadows.rests:
                    layout = RowLayout(kept.rules.context_size, width, kept.rules.feature_size)
                    shadows.pass_over(len(told) * len(rows) // (4 * layout.words))
                    continue
                made = _to_score(ready.plan.made(place, shares_units(told)), kept.rules, (width, slots), rows)
                if made.ids:
                    shadows.take(made, told, kept.served)

    def _tell(self, number: int, holder: SnapshotHolder) -> None:
        """Tells the planner of a task if it is another than it was."""
        if not holder.ready:
            return
        kept, rules, served = self._kept[number], holder.rules, holder.served
        if kept is not None and kept.rules is rules and kept.served is served:
            return
        kept = self._kept[number] = _Kept(rules, served, [])
        coverable = rules.policy.section.range is None and rules.context_size > 0 and (served.beside is None or served.beside.only_scores)
        self._planner.keep(number, **(_about(kept) if coverable else _nothing()))
        if served.challenger is None:
            self._add_arm(number, kept, _Arm(served.deciding, WHOLE))

    def _put_in_arms(self, plan: Any, number: int, kept: _Kept) -> None:
        found = []
        for place, unit in plan.units(number):
            arm = _Arm(*kept.served.assigned(task=kept.rules.name, unit_id=unit.decode()))
            found.append((place, kept.arms.index(arm) if arm in kept.arms else self._add_arm(number, kept, arm)))
        plan.put(found)

    def _add_arm(self, number: int, kept: _Kept, arm: _Arm) -> int:
        kept.arms.append(arm)
        around = around_request(kept.rules.tenant, kept.rules.name, arm.assignment.arm, arm.policy.digest)
        return int(self._planner.add_arm(number, *around))

    def _claim(self, plan: Any, kept: Sequence[_Kept | None]) -> list[tuple[int, tuple[str, str, str]]]:
        """Claims the request ids of a plan; what was answered before is answered so again, and what reuses an id is left to the engine."""
        claimed = []
        for place, number, request_id, body in plan.own_ids():
            found = kept[number]
            assert found is not None
            key = (*found.rules.key, request_id.decode())
            try:
                remembered = self._memory.claim(key, body=body)
            except RequestIdReused:
                plan.leave(place)
                continue
            if remembered is None:
                claimed.append((place, key))
            else:
                plan.remember(place, remembered)
        return claimed

    def _remember(self, ready: Ready) -> None:
        responses = ready.plan.responses()
        for place, key in ready.claimed:
            if responses[place] is None:
                self._memory.release(key)
            else:
                self._memory.keep(key, answer=responses[place])

    def _release(self, claimed: Sequence[tuple[int, tuple[str, str, str]]]) -> None:
        for _, key in claimed:
            self._memory.release(key)

    def _decide(
        self, plan: Any, place: int, known: Sequence[_Kept | None], number: int, arm: int, width: int, slots: int, rows: bytes
    ) -> None:
        kept = known[number]
        assert kept is not None
        rules, (policy, assignment) = kept.rules, kept.arms[arm]
        layout = RowLayout(rules.context_size, width, rules.feature_size)
        answers = policy.answer_rows(np.frombuffer(rows, np.uint32).reshape(-1, layout.words), layout=layout, slots=slots)
        by = DecidedBy(policy, assignment, kept.served.kill_switch)
        start = 0
        # A batch that goes through the program in parts may have parts of another shape.
        for bucket, rows_of_it in _runs(answers.bucket_batch):
            shared = shared_fields(rules, by, batch=bucket, width=width, epoch=epoch_of(rules))
            plan.make(place, start, answers.words[start : start + rows_of_it].tobytes(), shared.decision, shared.response)
            start += rows_of_it


class PlannedBatches:
    """`SelectBatch` by the planner, where all of its requests are plain; else as the servicer answers it."""

    def __init__(
        self,
        planned: Planned,
        *,
        read: Callable[[bytes], Any],
        answer: Callable[[Any], bytes],
        answer_some: Callable[[list[bytes]], list[Any]],
    ) -> None:
        """`read` and `answer`: the servicer's, for a batch. `answer_some`: the engine's answers to serialised SelectRequests."""
        self._planned, self._read_all, self._answer_all, self._answer_some = planned, read, answer, answer_some

    def read(self, data: bytes) -> Any:
        """What `answer` takes, of a serialised SelectBatchRequest. Raises DecodeError."""
        try:
            ready = self._planned.read_batch(data)
        except Exception as error:
            _logger.error("a batch of %d bytes is read by the engine", len(data), exc_info=error)
            ready = None
        return self._read_all(data) if ready is None else (ready, data)

    def answer(self, batch: Any) -> bytes:
        """A serialised SelectBatchResponse. Raises as the servicer's."""
        if not isinstance(batch, tuple):
            return self._answer_all(batch)
        ready, data = batch
        try:
            return self._planned.answer_batch(ready) or self._with_the_rest(ready, data)
        except LogUnavailable:
            pass
        except ServingError:
            raise
        except Exception as error:
            _logger.error("a batch of %d bytes is answered by the engine", len(data), exc_info=error)
        return self._answer_all(self._read_all(data))

    def _with_the_rest(self, ready: Ready, data: bytes) -> bytes:
        """What the planner has answered stands in the log; only what it left is answered by the engine."""
        answers, places = ready.plan.responses(), spans(data) or ()
        left = [place for place, answer in enumerate(answers) if answer is None]
        for place, answer in zip(left, self._answer_some([data[slice(*places[place])] for place in left]), strict=True):
            answers[place] = answer
        return results(answers)


def _runs(buckets: np.ndarray) -> list[tuple[int, int]]:
    """(compiled batch, rows) of the parts in which a batch went through the program."""
    if buckets[0] == buckets[-1]:
        return [(int(buckets[0]), len(buckets))]
    begins = [0, *(np.flatnonzero(np.diff(buckets)) + 1).tolist(), len(buckets)]
    return [(int(buckets[begin]), end - begin) for begin, end in itertools.pairwise(begins)]


def _to_score(
    made: tuple[bytes | None, bytes, list[bytes], list[bytes], bytes], rules: TaskRules, shape: tuple[int, int], rows: bytes
) -> ToScore:
    """Decisions that were made of `rows`, as shadows are told them."""
    made_rows, ids, units, encoded, which = made
    lists, listed_at = [_listed(one) for one in encoded], np.frombuffer(which, np.int32) if len(encoded) > 1 else None
    places = None if made_rows is None else np.frombuffer(made_rows, np.uint32)
    layout = RowLayout(rules.context_size, shape[0], rules.feature_size)
    write_rows = functools.partial(_write_rows, rows, places, lists, listed_at, layout)
    return ToScore(rules, shape, [unit.decode() for unit in units], ids, lists, listed_at, write_rows)


@functools.lru_cache(maxsize=KEPT_LISTS)
def _listed(encoded: bytes) -> CandidateList:
    listed = listed_of(encoded)
    assert listed is not None, "a list that was looked up before"
    return listed


def _write_rows(
    rows: bytes,
    made: np.ndarray | None,
    lists: Sequence[CandidateList],
    which: np.ndarray | None,
    layout: RowLayout,
    policy: LoadedPolicy,
    places: np.ndarray | None,
    into: np.ndarray,
) -> None:
    """Those of the rows that were made decisions of (None = all), at some places among these, with the words of their candidates for this
    policy; see ToScore."""
    kept = made if places is None else places if made is None else made[places]
    all_rows = np.frombuffer(rows, np.uint32).reshape(-1, layout.words)
    into[:] = all_rows if kept is None else all_rows[kept]
    words = np.frombuffer(b"".join([listed.words(policy, layout.width) for listed in lists]), np.uint32).reshape(len(lists), -1)
    if which is not None:
        words = words[which if places is None else which[places]]
    into[:, layout.numbers : layout.numbers + 3 * layout.width] = words


def _about(kept: _Kept) -> dict[str, Any]:
    """A task as the planner reads it; see serving/front/wire/src/plain.rs."""
    rules = kept.rules
    section, limits, own = rules.policy.section, rules.limits, rules.catalogue.listed
    before, behind = around_context(rules)
    return {
        "heads": task_heads(rules),
        "before_context": before,
        "context_bytes": 4 * rules.context_size,
        "behind_context": behind,
        "default_features": rules.default_features,
        "own": None if own is None else (own.encoded, rules.catalogue.features(own.actions)),
        "default_size": section.slate_size,
        "max_slots": limits.max_slots,
        "max_candidates": limits.max_candidates,
        "slot_counts": [0, *(rules.shapes.slot_count(size) for size in range(1, limits.max_slots + 1))],
        "sticky": None if section.draw_by == "decision" else around_unit(rules.name, epoch_of(rules)),
        "look_up": lambda encoded: _looked_up(encoded, rules),
        "words_of": lambda arm, encoded: _words_of(encoded, rules, kept.arms[arm].policy),
    }


def _nothing() -> dict[str, Any]:
    """A task of which no request is plain."""
    texts: dict[str, Any] = dict.fromkeys(("before_context", "behind_context", "default_features"), b"")
    numbers = dict.fromkeys(("context_bytes", "default_size", "max_slots", "max_candidates"), 0)
    asked = {"look_up": lambda encoded: None, "words_of": lambda arm, encoded: b""}
    return {"heads": [], "own": None, "slot_counts": [], "sticky": None, **texts, **numbers, **asked}


def _looked_up(encoded: bytes, rules: TaskRules) -> tuple[int, list[bytes], list[bytes]] | None:
    try:
        listed = listed_of(encoded)
    except UnicodeDecodeError:
        return None
    if listed is None or len(listed.actions) > rules.limits.max_candidates:
        return None
    return rules.shapes.width(len(listed.actions)), listed.logged_heads, listed.answered_heads


def _words_of(encoded: bytes, rules: TaskRules, policy: LoadedPolicy) -> bytes:
    listed = _listed(encoded)
    return listed.words(policy, rules.shapes.width(len(listed.actions)))
