"""The join as a Python dict, event by event: what a team writes first, and what ours is measured against. Pure."""

from collections import defaultdict
from typing import Any

__all__ = ["DictJoin"]

_WINDOW_US, _GRACE_US, _FINAL_US = 600_000_000, 300_000_000, 253_402_300_799_000_000


class DictJoin:
    """Event by event: a dict of open decisions, a set of ids, a list of what is due."""

    def __init__(self) -> None:
        self.open: dict[bytes, dict[str, Any]] = {}
        self.waiting: dict[bytes, list[Any]] = defaultdict(list)
        self.due: dict[int, list[bytes]] = defaultdict(list)
        self.marks: dict[tuple[str, int], int] = {}
        self.closed_until = 0

    def take(self, kind: str, body: Any, *, topic: str, partition: int, append_us: int) -> None:
        if kind == "heartbeat":
            self.marks[topic, partition] = _FINAL_US
            return
        mark = min(body.event_time_us, append_us) - _GRACE_US
        self.marks[topic, partition] = max(self.marks.get((topic, partition), 0), mark)
        key = body.decision_id
        if kind == "decision":
            if key not in self.open:
                slot = body.slots[0]
                self.open[key] = {
                    "decision_id": key,
                    "unit_id": body.unit_id,
                    "action": slot.action,
                    "seen": False,
                    "reward": 0.0,
                    "ids": set(),
                }
                self.due[(body.event_time_us + _WINDOW_US) // 60_000_000].append(key)
                for one in self.waiting.pop(key, ()):
                    self._apply(self.open[key], *one)
            return
        held = self.open.get(key)
        if held is None:
            self.waiting[key].append((kind, body))
        else:
            self._apply(held, kind, body)

    def _apply(self, held: dict[str, Any], kind: str, body: Any) -> None:
        if body.event_id in held["ids"] or body.unit_id != held["unit_id"]:
            return
        held["ids"].add(body.event_id)
        if kind == "impression":
            held["seen"] = True
        else:
            held["reward"] = max(held["reward"], body.value)

    def closed(self) -> list[dict[str, Any]]:
        until = min(self.marks.values()) // 60_000_000 if len(self.marks) >= 6 else 0
        rows = []
        for minute in sorted(minute for minute in self.due if minute < until):
            rows += [self.open.pop(key) for key in self.due.pop(minute) if key in self.open]
        return rows
