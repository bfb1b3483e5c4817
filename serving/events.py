"""Builds the events that producers send: ids and times come in. Pure."""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict, Unpack

from protos.events_pb2 import Event, Heartbeat, Impression, Reward, SeenSlot, Signal
from protos.task import DEFAULT_TENANT

__all__ = ["Origin", "heartbeat", "impression", "reward", "signal"]


class Origin(TypedDict):
    """What every event says of itself: a unique id, when it happened (microseconds since the epoch), whose it is, and who tells."""

    event_id: str
    event_time_us: int
    tenant: NotRequired[str]
    producer: NotRequired[str]


def impression(task: str, *, decision_id: bytes, unit_id: str, seen: Sequence[tuple[int, str]] = (), **origin: Unpack[Origin]) -> Event:
    """Slots of a decision were seen: (slot, action) pairs, empty = the whole slate."""
    slots = [SeenSlot(slot=slot, action=action) for slot, action in seen]
    return Event(impression=Impression(task=task, decision_id=decision_id, unit_id=unit_id, seen=slots, **_whole(origin)))


def reward(
    task: str,
    *,
    decision_id: bytes,
    unit_id: str,
    name: str,
    value: float,
    slot: int | None = None,
    action: str = "",
    **origin: Unpack[Origin],
) -> Event:
    """A named outcome of a slot (by index or action), or of the whole slate."""
    about = {"task": task, "decision_id": decision_id, "unit_id": unit_id, **_whole(origin)}
    return Event(reward=Reward(name=name, value=value, slot=slot, action=action, **about))


def signal(*, unit_id: str, name: str, value: float | None = None, **origin: Unpack[Origin]) -> Event:
    """Any other activity of a unit; no value = it happened."""
    return Event(signal=Signal(unit_id=unit_id, name=name, value=value, **_whole(origin)))


def heartbeat(source: str, *, event_time_us: int, final: bool = False, partition: int = 0, producer: str = "") -> Event:
    """Everything of `source` before the time has been sent."""
    return Event(heartbeat=Heartbeat(source=source, partition=partition, event_time_us=event_time_us, final=final, producer=producer))


def _whole(origin: Origin) -> dict[str, Any]:
    return {"tenant": DEFAULT_TENANT, **origin}
