"""The world of the drill: four offers, with the chance of a click and of a complaint. It drives a server, one batch a call. Touches it."""

import time
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from protos.events_pb2 import Event
from protos.policy_pb2 import SelectResponse
from serving import events
from serving.client import PolicyClient

__all__ = ["ACTIONS", "TASK", "Offers", "now_us"]

TASK = "offers"
ACTIONS = ("plain", "plainer", "dull", "loud")
_CLICK = dict(zip(ACTIONS, (0.6, 0.3, 0.1, 0.7), strict=True))
_COMPLAINT = dict(zip(ACTIONS, (0.05, 0.05, 0.05, 0.5), strict=True))
_UNITS, _BATCH = 2_000, 64
_PRODUCER = "drill"


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000


class _Whose(TypedDict):
    decision_id: bytes
    unit_id: str


class _When(TypedDict):
    event_time_us: int
    producer: str


class Offers:
    """Visitors who are shown an offer, click and complain. `turn` makes the plain offer annoying."""

    def __init__(self, caller: PolicyClient, *, seed: int) -> None:
        self._caller, self._rng = caller, np.random.default_rng(seed)
        self._complaint = dict(_COMPLAINT)
        self.answered = 0

    def turn(self) -> None:
        """From now on the plain offer is complained about by every second visitor."""
        self._complaint["plain"] = 0.5

    def batch(self) -> None:
        """One batch of visits, with what came of them, and the heartbeats that close their windows."""
        units = [f"visitor-{unit}" for unit in self._rng.integers(0, _UNITS, _BATCH)]
        requests = [self._caller.request(TASK, unit_id=unit, context={"age": 0.0}) for unit in units]
        answers = self._caller.select_batch(requests)
        told = [
            event
            for unit, answer in zip(units, answers, strict=True)
            if isinstance(answer, SelectResponse)
            for event in self._react(unit, answer)
        ]
        self._caller.send_feedback([*told, *self.beats()])
        self.answered += len(answers)

    def beats(self, *, final: bool = False) -> Sequence[Event]:
        """Everything of both sources up to now has been sent."""
        time_us = now_us() - 1
        return [events.heartbeat(source, event_time_us=time_us, final=final, producer=_PRODUCER) for source in ("impressions", "rewards")]

    def _react(self, unit: str, answer: SelectResponse) -> list[Event]:
        (slot,), name, at = answer.slots, answer.decision_id.hex(), now_us()
        whose, when = _Whose(decision_id=answer.decision_id, unit_id=unit), _When(event_time_us=at, producer=_PRODUCER)
        found = [events.impression(TASK, event_id=f"{name}-seen", **whose, **when)]
        for outcome, chance in (("click", _CLICK[slot.action]), ("complaint", self._complaint[slot.action])):
            if self._rng.random() < chance:
                found.append(events.reward(TASK, event_id=f"{name}-{outcome}", name=outcome, value=1.0, slot=0, **whose, **when))
        return found
