"""The join as one would write it on a whiteboard: all events at hand, one decision at a time, no state, no watermark."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from attribution.settings import JoinConfig, TaskJoin
from protos.events_pb2 import Event

AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "sum": sum,
    "max": max,
    "mean": lambda values: sum(values) / len(values),
    "count": lambda values: float(len(values)),
}


def reference_join(events: Iterable[Event], *, config: JoinConfig) -> dict[bytes, dict[str, Any]]:
    """Decision id -> what its latest revision must say."""
    decisions: dict[bytes, Event] = {}
    feedback: dict[bytes, list[Event]] = defaultdict(list)
    for event in events:
        kind = event.WhichOneof("kind")
        body = getattr(event, str(kind))
        if kind == "heartbeat" or body.event_time_us > event.append_time_us + _us(
            next(iter(config.tasks.values())).attribution.max_future_s
        ):
            continue
        if kind != "decision":
            feedback[body.decision_id].append(event)
        elif event.append_time_us < body.event_time_us + sum(_limits(config.tasks["default", body.task])):
            first = decisions.setdefault(body.decision_id, event)
            decisions[body.decision_id] = min(first, event, key=lambda copy: (copy.append_time_us, copy.SerializeToString()))
    return {key: _row(event, feedback[key], config.tasks["default", event.decision.task]) for key, event in decisions.items()}


def _row(event: Event, feedback: list[Event], join: TaskJoin) -> dict[str, Any]:
    d, (window, grace, horizon) = event.decision, _limits(join)
    slate, seen, overridden, corrected = [slot.action for slot in d.slots], [None] * len(d.slots), False, False
    values: dict[tuple[str, int | None], list[tuple[int, str, float]]] = defaultdict(list)
    for kind, body, append in _distinct(
        e for e in feedback if _of(e).unit_id == d.unit_id and e.append_time_us < d.event_time_us + window + grace + horizon
    ):
        delay, on_close = body.event_time_us - d.event_time_us, append >= d.event_time_us + window + grace
        if kind == "impression" and -grace <= delay < _us(join.attribution.impression_window_s):
            shown = [(s.slot, s.action) for s in body.seen] or list(enumerate(slate))
            if all(action in d.candidates.actions for _, action in shown):
                as_decided = [slot for slot, action in shown if slot < len(slate) and slate[slot] == action]
                for slot in as_decided:
                    seen[slot] = min(body.event_time_us, seen[slot] or body.event_time_us)
                overridden, corrected = overridden or len(as_decided) < len(shown), corrected or on_close
        outcome = join.rewards.outcomes.get(body.name) if kind == "reward" else None
        if outcome is not None and -grace <= delay < _us(outcome.window_s):
            slot, known = _slot(body, slate) if outcome.level == "slot" else (None, True)
            if known:
                values[body.name, slot].append((body.event_time_us, body.event_id, body.value))
                corrected = corrected or on_close
    found = {
        key: AGGREGATES[join.rewards.outcomes[key[0]].aggregate]([value for *_, value in sorted(group)]) for key, group in values.items()
    }
    for name, outcome in join.rewards.outcomes.items():
        for slot in [None] if outcome.level == "slate" else [slot for slot, time in enumerate(seen) if time is not None]:
            found.setdefault((name, slot), outcome.default)
    worth = {key: join.rewards.outcomes[key[0]].weight * value for key, value in found.items()}
    slot_reward = [None if time is None else sum(w for (_, s), w in worth.items() if s == slot) for slot, time in enumerate(seen)]
    total = sum(w for w in slot_reward if w is not None) + sum(w for (_, s), w in worth.items() if s is None)
    status = "corrected" if corrected else "final"
    named = {(name, slot, value) for (name, slot), value in found.items()}
    return {"seen": seen, "slot_reward": slot_reward, "reward": total, "outcomes": named, "overridden": overridden, "status": status}


def _distinct(feedback: Iterable[Event]) -> Iterable[tuple[str, Any, int]]:
    copies: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in feedback:
        copies[str(event.WhichOneof("kind")), _of(event).event_id].append(event)
    for (kind, _), group in copies.items():
        yield kind, _of(min(group, key=_hash)), min(event.append_time_us for event in group)


def _slot(body: Any, slate: list[str]) -> tuple[int | None, bool]:
    if body.HasField("slot"):
        return body.slot, body.slot < len(slate) and body.action in ("", slate[body.slot])
    if body.action:
        return (slate.index(body.action), True) if body.action in slate else (None, False)
    return None, True


def _of(event: Event) -> Any:
    return getattr(event, str(event.WhichOneof("kind")))


def _hash(event: Event) -> bytes:
    bare = Event()
    bare.CopyFrom(event)
    bare.ClearField("append_time_us")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()


def _limits(join: TaskJoin) -> tuple[int, int, int]:
    window = max(join.attribution.impression_window_s, *(outcome.window_s for outcome in join.rewards.outcomes.values()))
    return _us(window), _us(join.attribution.grace_s), _us(join.attribution.correction_horizon_s)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def said(row: dict[str, Any]) -> dict[str, Any]:
    """What an observation says, in the reference's terms."""
    named = {(outcome["name"], outcome["slot"], outcome["value"]) for outcome in row["outcomes"]}
    picked = {name: row[name] for name in ("slot_reward", "reward", "overridden", "status")}
    assert row["slot_seen"] == [time is not None for time in row["slot_seen_time_us"]]
    return {"seen": row["slot_seen_time_us"], "outcomes": named, **picked}
