"""Derives logged decisions again: the slate from snapshot and key, the numerators from the snapshot, and what must hold within a record."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bandits.continuous import slot_values
from bandits.errors import BanditsError
from bandits.keys import decision_id
from bandits.loaded import LoadedPolicy
from bandits.quantise import DENOMINATOR
from bandits.requests import Requests, logged_draw_key, requests_from_observations
from bandits.store import Store
from protos.events_pb2 import Decision, Event
from protos.framing import Damage
from protos.log_files import DECISIONS, read_log, segments
from protos.observations import DECISION_COLUMNS
from serving.errors import ServingError

__all__ = ["TOLERANCE", "Fault", "Report", "replay_logs"]

# Two platforms' numerators of the same decision agree within this probability.
TOLERANCE = 1e-6
# Decisions that are derived in one go, and faults that are kept with their text.
_BATCH = 1024
_FAULTS_KEPT = 20


class Fault(NamedTuple):
    """Something at a position of the log that does not come out as logged."""

    kind: str
    offset: int
    text: str


class Logged(NamedTuple):
    """A decision and the offset of its record."""

    decision: Decision
    offset: int


@dataclasses.dataclass
class Report:
    """What a replay found: shares of decisions and slots that agree, the first faults, and bytes that are no record."""

    decisions: int = 0
    slots: int = 0
    draws_agree: int = 0
    propensities_agree: int = 0
    fault_count: int = 0
    torn_tails: int = 0
    faults: list[Fault] = dataclasses.field(default_factory=list)
    damages: list[Fault] = dataclasses.field(default_factory=list)

    @property
    def sound(self) -> bool:
        """true = everything agrees. A torn tail, which a killed server leaves behind, acknowledged nothing and is no fault."""
        return self.fault_count == 0 and not self.damages

    def note(self, kind: str, offset: int, text: str) -> None:
        """Counts a fault, and keeps it if it is among the first."""
        self.fault_count += 1
        if len(self.faults) < _FAULTS_KEPT:
            self.faults.append(Fault(kind, offset, text))

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Shares are null where there was nothing to compare."""
        return {
            "decisions": self.decisions,
            "replay_draws": self.draws_agree / self.decisions if self.decisions else None,
            "replay_propensities": self.propensities_agree / self.slots if self.slots else None,
            "disagreements": self.fault_count,
            "torn_tails": self.torn_tails,
            "faults": [fault._asdict() for fault in self.faults],
            "damages": [fault._asdict() for fault in self.damages],
        }


def replay_logs(logs: Path, *, store: Path, task: str | None = None) -> Report:
    """Replays the decision log below `logs` with the snapshots in `store`; `task` = that one only.

    Raises ServingError if there is no log.
    """
    log = logs / DECISIONS
    if not segments(log):
        raise ServingError(f"--logs: {logs} holds no decision log; give the directory that `serving serve` was given")
    report = Report()
    replayer = _Replayer(store, report)
    waiting: dict[tuple[str, str], list[Logged]] = defaultdict(list)
    for logged in _decisions(log, report):
        if task is not None and logged.decision.task != task:
            continue
        group = waiting[logged.decision.task, logged.decision.snapshot_digest]
        group.append(logged)
        if len(group) == _BATCH:
            replayer.replay(group)
            group.clear()
    for group in waiting.values():
        replayer.replay(group)
    return report


def _decisions(log: Path, report: Report) -> Iterator[Logged]:
    """Every decision of the log; damage goes into the report."""
    ends = {base + path.stat().st_size for base, path in segments(log)}
    offset = -1
    chunk = read_log(log, offset=0)
    while chunk.next_offset > offset:
        offset = chunk.next_offset
        for item in chunk.items:
            if isinstance(item, Damage):
                _note_damage(report, item, ends)
                continue
            event = Event.FromString(item.payload)
            if event.HasField("decision"):
                yield Logged(event.decision, item.start)
        chunk = read_log(log, offset=offset)


def _note_damage(report: Report, damage: Damage, ends: set[int]) -> None:
    if damage.reason == "torn record" and damage.end in ends:
        report.torn_tails += 1
    elif len(report.damages) < _FAULTS_KEPT:
        report.damages.append(Fault("damage", damage.start, f"{damage.reason}, {damage.end - damage.start} bytes"))


class _Replayer:
    """Replays groups of decisions that share a snapshot."""

    def __init__(self, store: Path, report: Report) -> None:
        self._store = store
        self._report = report
        self._policies: dict[tuple[str, str], LoadedPolicy] = {}

    def replay(self, group: Sequence[Logged]) -> None:
        if not group:
            return
        report, first = self._report, group[0].decision
        sound = [logged for logged in group if _is_consistent(logged, report)]
        report.decisions += len(group)
        report.slots += sum(len(logged.decision.slots) for logged in group)
        try:
            policy = self._policy(first.task, first.snapshot_digest)
            if sound:
                self._compare(policy, sound)
        except BanditsError as error:
            for logged in sound:
                report.note("snapshot", logged.offset, str(error))

    def _policy(self, task: str, digest: str) -> LoadedPolicy:
        if (task, digest) not in self._policies:
            self._policies[task, digest] = Store(self._store, task).load(digest)
        return self._policies[task, digest]

    def _compare(self, policy: LoadedPolicy, group: Sequence[Logged]) -> None:
        _, context, features = policy.manifest.dims
        requests, slates = requests_from_observations(
            _table(group), actions=policy.manifest.actions, context_size=context, feature_size=features
        )
        drawn = policy.decide(requests, slots=slates.shape[1])
        numerators = drawn.numerators.copy()
        # A slate that is drawn again brings its numerators with it; only another one has to be walked through.
        other = np.flatnonzero((drawn.slates != slates).any(axis=1))
        if other.size:
            numerators[other] = policy.slate_numerators(Requests(*(column[other] for column in requests)), slates[other])
        for logged, slate, again, derived in zip(group, slates, drawn.slates, numerators, strict=True):
            self._compare_draw(logged, slate, again)
            self._compare_numerators(logged, derived)

    def _compare_draw(self, logged: Logged, slate: np.ndarray, again: np.ndarray) -> None:
        if np.array_equal(slate, again):
            self._report.draws_agree += 1
            return
        actions = logged.decision.candidates.actions
        drawn = [actions[index] for index in again if index >= 0]
        stands = [slot.action for slot in logged.decision.slots]
        self._report.note("draw", logged.offset, f"logged slate {stands}, its key draws {drawn}")

    def _compare_numerators(self, logged: Logged, derived: np.ndarray) -> None:
        for place, (slot, numerator) in enumerate(zip(logged.decision.slots, derived.tolist(), strict=False)):
            if abs(slot.numerator - numerator) <= TOLERANCE * DENOMINATOR:
                self._report.propensities_agree += 1
            else:
                text = f"slot {place}: logged {slot.numerator / DENOMINATOR:.9f}, the snapshot gives {numerator / DENOMINATOR:.9f}"
                self._report.note("propensity", logged.offset, text)


def _table(group: Sequence[Logged]) -> pa.Table:
    """The columns of an observation that a request is made of."""
    rows = [logged.decision for logged in group]
    columns = {
        "decision_id": [row.decision_id for row in rows],
        "task": [row.task for row in rows],
        "unit_id": [row.unit_id for row in rows],
        "context": [np.frombuffer(row.context, "<f4") for row in rows],
        "candidate_actions": [list(row.candidates.actions) for row in rows],
        "candidate_eligible": [list(row.candidates.eligible) for row in rows],
        "candidate_packed_features": [np.frombuffer(row.candidates.packed_features, "<f4") for row in rows],
        "candidate_scores": [list(row.candidates.scores) for row in rows],
        "slot_action": [[slot.action for slot in row.slots] for row in rows],
        "draw_by": [row.draw_by for row in rows],
        "epoch": [row.epoch for row in rows],
    }
    return pa.table(columns, schema=pa.schema([field for field in DECISION_COLUMNS if field.name in columns]))


def _is_consistent(logged: Logged, report: Report) -> bool:
    """Notes the first thing that cannot be true of any decision."""
    fault = next(_inconsistencies(logged.decision), None)
    if fault is not None:
        report.note("record", logged.offset, fault)
    return fault is None


def _inconsistencies(decision: Decision) -> Iterator[str]:
    wanted = decision_id(
        tenant=decision.tenant,
        task=decision.task,
        request_id=decision.request_id,
        arm=decision.arm,
        snapshot_digest=decision.snapshot_digest,
    )
    if decision.decision_id != wanted:
        yield f"decision id {decision.decision_id.hex()} is not the hash of its request, {wanted.hex()}"
    eligible = _eligible(decision)
    for place, slot in enumerate(decision.slots):
        if slot.action not in eligible:
            yield f"slot {place}: action {slot.action!r} is no eligible candidate, or stands twice"
        if not 1 <= slot.numerator <= DENOMINATOR:
            yield f"slot {place}: numerator {slot.numerator} is not in 1..2^31"
        if slot.propensity != slot.numerator / DENOMINATOR:
            yield f"slot {place}: propensity {slot.propensity!r} is not its numerator / 2^31 = {slot.numerator / DENOMINATOR!r}"
        if len(eligible) == 1 and slot.numerator != DENOMINATOR:
            yield f"slot {place}: numerator {slot.numerator} where one candidate was left; a forced slot has 2^31"
        eligible.discard(slot.action)
    yield from _wrong_values(decision)


def _wrong_values(decision: Decision) -> Iterator[str]:
    """Values of a continuous parameter, and their densities, follow from the slots and the key."""
    slots = decision.slots
    if not any(slot.HasField("value") or slot.HasField("density") for slot in slots):
        return
    key = logged_draw_key(
        decision_id=decision.decision_id, draw_by=decision.draw_by, task=decision.task, unit_id=decision.unit_id, epoch=decision.epoch
    )
    wanted = slot_values([slot.action for slot in slots], [slot.numerator for slot in slots], key)
    for place, (slot, valued) in enumerate(zip(slots, wanted, strict=True)):
        if valued is None:
            yield f"slot {place}: value {slot.value!r} of action {slot.action!r}, which is no bin of a range"
        elif (slot.value, slot.density) != valued:
            yield f"slot {place}: value {slot.value!r}, density {slot.density!r}; its key and bin give {valued.value!r}, {valued.density!r}"


def _eligible(decision: Decision) -> set[str]:
    actions, flags = decision.candidates.actions, decision.candidates.eligible
    return {action for action, flag in zip(actions, flags or [True] * len(actions), strict=False) if flag}
