"""Checks the events that producers send to Feedback: a refused event names its index, field, value and remedy. Pure."""

import math
from collections.abc import Mapping, Sequence

from bandits.quantise import DENOMINATOR
from protos.events_pb2 import FALLBACK_REASON_CLIENT, Decision, Event, Heartbeat, Impression, Reward, Signal
from serving.fields import check_decision_id, check_id, refused, shown
from serving.tasks import TaskKey, TaskRules
from serving.validate import find_task

__all__ = ["EVENTS_PER_CALL", "SOURCES", "check_events"]

EVENTS_PER_CALL = 10_000
# Streams that a heartbeat may speak for.
SOURCES = ("decisions", "impressions", "rewards", "signals")
_SLOTS = 64


def check_events(events: Sequence[Event], *, tasks: Mapping[TaskKey, TaskRules], latest_us: int) -> None:
    """Raises RequestRefused at the first event that may not enter the log; `latest_us`: no event may lie behind it."""
    if not 1 <= len(events) <= EVENTS_PER_CALL:
        raise refused("events", f"has {len(events)} entries; send 1 to {EVENTS_PER_CALL} events a call")
    for index, event in enumerate(events):
        _check_event(event, f"events[{index}]", tasks, latest_us)


def _check_event(event: Event, path: str, tasks: Mapping[TaskKey, TaskRules], latest_us: int) -> None:
    kind = event.WhichOneof("kind")
    if kind is None:
        raise refused(path, "is empty; give an impression, reward, signal or heartbeat")
    path = f"{path}.{kind}"
    body: Decision | Impression | Reward | Signal | Heartbeat = getattr(event, kind)
    if not 0 < body.event_time_us <= latest_us:
        raise refused(f"{path}.event_time_us", f"{body.event_time_us} is refused; give microseconds since 1970, not in the future")
    match body:
        case Heartbeat():
            _check_heartbeat(body, path)
        case Decision():
            _check_decision(body, path, tasks)
        case Signal():
            _check_common(body, path)
            _check_number(body.value if body.HasField("value") else 1.0, f"{path}.value")
            check_id(body.name, field=f"{path}.name")
        case Impression():
            _check_impression(body, path, tasks)
        case Reward():
            _check_reward(body, path, tasks)


def _check_common(body: Impression | Reward | Signal, path: str) -> None:
    check_id(body.event_id, field=f"{path}.event_id")
    check_id(body.unit_id, field=f"{path}.unit_id")
    check_id(body.tenant, field=f"{path}.tenant", optional=True)
    check_id(body.producer, field=f"{path}.producer", optional=True)


def _check_impression(body: Impression, path: str, tasks: Mapping[TaskKey, TaskRules]) -> None:
    _check_common(body, path)
    find_task(tasks, tenant=body.tenant, task=body.task)
    check_decision_id(body.decision_id, field=f"{path}.decision_id")
    for index, seen in enumerate(body.seen):
        check_id(seen.action, field=f"{path}.seen[{index}].action")
        _check_slot(seen.slot, f"{path}.seen[{index}].slot")


def _check_reward(body: Reward, path: str, tasks: Mapping[TaskKey, TaskRules]) -> None:
    _check_common(body, path)
    find_task(tasks, tenant=body.tenant, task=body.task)
    check_decision_id(body.decision_id, field=f"{path}.decision_id", optional=True)
    check_id(body.name, field=f"{path}.name")
    check_id(body.action, field=f"{path}.action", optional=True)
    if not body.HasField("value"):
        raise refused(f"{path}.value", "is not set; give a number (0 is one)")
    _check_number(body.value, f"{path}.value")
    _check_slot(body.slot, f"{path}.slot")


def _check_heartbeat(body: Heartbeat, path: str) -> None:
    if body.source not in SOURCES:
        raise refused(f"{path}.source", f"{shown(body.source)} is no stream; give one of {', '.join(SOURCES)}")
    if body.partition < 0:
        raise refused(f"{path}.partition", f"{body.partition} is negative; partitions count from 0")


def _check_decision(body: Decision, path: str, tasks: Mapping[TaskKey, TaskRules]) -> None:
    """A client's own fallback: flagged as such, with the propensities of its rule."""
    if body.fallback != FALLBACK_REASON_CLIENT:
        raise refused(f"{path}.fallback", f"{body.fallback} is refused; only a client's own fallback comes this way, flagged CLIENT")
    check_id(body.unit_id, field=f"{path}.unit_id")
    check_id(body.request_id, field=f"{path}.request_id")
    find_task(tasks, tenant=body.tenant, task=body.task)
    check_decision_id(body.decision_id, field=f"{path}.decision_id")
    if not 1 <= len(body.slots) <= _SLOTS:
        raise refused(f"{path}.slots", f"has {len(body.slots)} entries; give 1 to {_SLOTS}")
    for index, slot in enumerate(body.slots):
        if not 1 <= slot.numerator <= DENOMINATOR or slot.propensity != slot.numerator / DENOMINATOR:
            field = f"{path}.slots[{index}].propensity"
            raise refused(field, f"{slot.propensity!r} with numerator {slot.numerator}; give 1 to 2^31 and numerator / 2^31")


def _check_number(value: float, field: str) -> None:
    if not math.isfinite(value):
        raise refused(field, f"{value!r} is refused; give a finite number")


def _check_slot(slot: int, field: str) -> None:
    if slot >= _SLOTS:
        raise refused(field, f"{slot} is refused; slots count from 0 to {_SLOTS - 1}")
