"""Plain requests that come together, decided without a Python object a request: the native front reads them and writes what they become.

Two things stay here: which policy decides (the snapshot that serves, one arm), and the program that decides. Requests with an id of their
own, of tasks whose traffic is split or that have something beside a decision (serving/traffic), whose draws stick to the unit, or whose
actions are ranges, and whatever `serving.plain` would not read are left to the engine, which is the definition: a test compares the bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bandits.keys import around_request
from bandits.loaded import LoadedPolicy
from bandits.packed import RowLayout
from bandits.traffic import whole
from serving.observers import Observed, Observer
from serving.plain import around_context, listed_of, task_heads
from serving.record import DecidedBy, shared_fields
from serving.snapshots import Served, SnapshotHolder
from serving.tasks import TaskKey, TaskRules

__all__ = ["Planned"]

# The arm of everybody, where no promotion is staged.
_WHOLE = whole()


class _Kept(NamedTuple):
    """What the planner was told of a task: it is told anew when the task's rules or snapshots are others."""

    rules: TaskRules
    served: Served


class Planned:
    """Answers what is plain of a batch. For one thread."""

    def __init__(
        self,
        planner: Any,
        *,
        holders: Mapping[TaskKey, SnapshotHolder],
        append_framed: Callable[[Callable[[int], bytes]], object],
        observer: Observer,
    ) -> None:
        """`append_framed(frame)` appends the records that `frame` makes for a time, or raises LogUnavailable."""
        self._planner = planner
        self._holders = list(holders.values())
        self._kept: list[_Kept | None] = [None] * len(self._holders)
        self._append_framed = append_framed
        self._observer = observer

    def answer(self, messages: Sequence[bytes]) -> Sequence[bytes | None]:
        """A serialised SelectResponse for each plain request, which then stands in the log; None for every other.

        Raises what the policy or the log raises: then nothing was answered.
        """
        timer = self._observer.timer
        started_s = timer()
        for number, holder in enumerate(self._holders):
            self._tell(number, holder)
        plan = self._planner.plan(messages)
        admitted_s = timer()
        groups = plan.groups
        if not groups:
            return [None] * len(messages)
        for place, group in enumerate(groups):
            self._decide(plan, place, *group)
        decided_s, decided = timer(), plan.decided
        if decided:
            self._append_framed(plan.framed)
            self._observer.batch(Observed(decided, decided, admitted_s - started_s, decided_s - admitted_s, timer() - decided_s))
        return list(plan.responses())

    def _tell(self, number: int, holder: SnapshotHolder) -> None:
        """Tells the planner of a task if it is another than it was."""
        if not holder.ready:
            return
        kept, rules, served = self._kept[number], holder.rules, holder.served
        if kept is not None and kept.rules is rules and kept.served is served:
            return
        self._kept[number] = _Kept(rules, served)
        section = rules.policy.section
        one_arm = served.challenger is None and served.beside is None
        coverable = one_arm and section.draw_by == "decision" and section.range is None and rules.context_size > 0
        self._planner.keep(number, **(_about(rules, served) if coverable else _nothing()))

    def _decide(self, plan: Any, place: int, number: int, width: int, slots: int, rows: bytes) -> None:
        kept = self._kept[number]
        assert kept is not None
        rules, policy = kept.rules, kept.served.deciding
        layout = RowLayout(rules.context_size, width, rules.feature_size)
        outputs = policy.decide_rows(np.frombuffer(rows, np.uint32).reshape(-1, layout.words), layout=layout, slots=slots)
        by = DecidedBy(policy, _WHOLE, kept.served.kill_switch)
        shared = shared_fields(rules, by, batch=int(outputs.bucket_batch[0]), width=width, epoch=0)
        columns = (outputs.slates.astype("<i4"), outputs.numerators.astype("<u4"), outputs.mean.astype("<f8"), outputs.sound.astype("u1"))
        plan.make(place, *[column.tobytes() for column in columns], shared.decision, shared.response)


def _about(rules: TaskRules, served: Served) -> dict[str, Any]:
    """A task as the planner reads it; see serving/front/wire/src/plain.rs."""
    policy, limits, own = served.deciding, rules.limits, rules.catalogue.listed
    before, behind = around_context(rules)
    id_before, id_behind = around_request(rules.tenant, rules.name, _WHOLE.arm, policy.digest)
    return {
        "heads": task_heads(rules),
        "before_context": before,
        "context_bytes": 4 * rules.context_size,
        "behind_context": behind,
        "default_features": rules.default_features,
        "own": None if own is None else (own.encoded, rules.catalogue.features(own.actions)),
        "default_size": rules.policy.section.slate_size,
        "max_slots": limits.max_slots,
        "max_candidates": limits.max_candidates,
        "slot_counts": [0, *(rules.shapes.slot_count(size) for size in range(1, limits.max_slots + 1))],
        "id_before": id_before,
        "id_behind": id_behind,
        "look_up": lambda encoded: _looked_up(encoded, rules, policy),
    }


def _nothing() -> dict[str, Any]:
    """A task of which no request is plain."""
    texts: dict[str, Any] = dict.fromkeys(("before_context", "behind_context", "default_features", "id_before", "id_behind"), b"")
    numbers = dict.fromkeys(("context_bytes", "default_size", "max_slots", "max_candidates"), 0)
    return {"heads": [], "own": None, "slot_counts": [], "look_up": lambda encoded: None, **texts, **numbers}


def _looked_up(encoded: bytes, rules: TaskRules, policy: LoadedPolicy) -> tuple[int, bytes, list[bytes], list[bytes]] | None:
    try:
        listed = listed_of(encoded)
    except UnicodeDecodeError:
        return None
    if listed is None or len(listed.actions) > rules.limits.max_candidates:
        return None
    width = rules.shapes.width(len(listed.actions))
    return width, listed.words(policy, width), listed.logged_heads, listed.answered_heads
