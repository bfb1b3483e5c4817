"""The traffic of the demo: page views through Select and SelectBatch, and what visitors do with the slates through Feedback."""

import dataclasses
import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from protos.events_pb2 import Event
from protos.policy_pb2 import SelectRequest, SelectResponse
from serving import events
from serving.client import PolicyClient
from serving.demo.world import Visitor, World

__all__ = ["Load", "Tally", "Traffic"]

_PRODUCER = "demo"
# Share of reward events that are sent twice, and share that come only after the windows have closed: real producers do both.
_REPEATED, _LATE = 0.01, 0.005


@dataclasses.dataclass(frozen=True)
class Load:
    """How much traffic: decisions a second in all, the size of a batch, workers that send batches, seconds until late rewards come."""

    rate: float
    batch: int
    batch_workers: int
    late_s: float


class Tally:
    """What the callers saw. Counts decisions by what became of them; keeps the latencies of single Selects, seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answered = self.acknowledged = self.unlogged = self.refused = 0
        self.select_s: deque[float] = deque(maxlen=200_000)

    def count(self, responses: Iterable[SelectResponse], *, refused: int = 0) -> None:
        """Adds answers. Only a decision that the server says it has logged counts as acknowledged."""
        logged = [response.logged for response in responses]
        with self._lock:
            self.answered += len(logged)
            self.acknowledged += sum(logged)
            self.unlogged += len(logged) - sum(logged)
            self.refused += refused


class Traffic:
    """Runs until told to stop. Every random choice follows from `seed` and the worker's number."""

    def __init__(self, connect: Callable[[], PolicyClient], world: World, load: Load, *, seed: int) -> None:
        self.tally = Tally()
        self._connect, self._world, self._load, self._seed, self._slate_size = connect, world, load, seed, world.slate_size
        self._stop = threading.Event()
        self._errors: list[Exception] = []
        self._lock = threading.Lock()
        self._in_flight: dict[int, int] = {}
        self._late: list[tuple[float, int, Event]] = []
        self._sent = 0
        single = [threading.Thread(target=self._guarded, daemon=True, args=(self._singles, 0))]
        batches = [threading.Thread(target=self._guarded, daemon=True, args=(self._batches, 1 + i)) for i in range(load.batch_workers)]
        self._workers = [*single, *batches]
        self._clock = threading.Thread(target=self._guarded, daemon=True, args=(self._heartbeats, -1))

    def start(self) -> None:
        """Begins to send."""
        for thread in (*self._workers, self._clock):
            thread.start()

    def check(self) -> None:
        """Raises the first error that a worker met."""
        if self._errors:
            raise self._errors[0]

    def finish(self) -> None:
        """Stops, sends what was late, and says that nothing will follow."""
        self._stop.set()
        for thread in (*self._workers, self._clock):
            thread.join()
        self.check()
        self._connect().send_feedback([event for _, _, event in self._late] + self._beats(final=True))

    def _guarded(self, work: Callable[[int], None], worker: int) -> None:
        try:
            work(worker)
        except Exception as error:
            # Whatever it is: a thread that ends in silence would leave a demo without traffic.
            self._errors.append(error)
            self._stop.set()

    def _singles(self, worker: int) -> None:
        """One view a call: what most product services do, and where latency is measured."""
        caller, rng = self._connect(), np.random.default_rng([self._seed, worker])
        while not self._stop.is_set():
            (visit,) = self._world.visits(rng, 1)
            with _Flight(self, worker):
                begun = time.perf_counter()
                response = caller.select(self._world.task, unit_id=visit.unit_id, context=visit.context, slate_size=self._slate_size)
                self.tally.select_s.append(time.perf_counter() - begun)
                self.tally.count([response])
                caller.send_feedback(self._events(rng, [(visit, response)]))
            self._stop.wait(0.01)

    def _batches(self, worker: int) -> None:
        """Many views a call, at the load's rate."""
        caller, rng = self._connect(), np.random.default_rng([self._seed, worker])
        pause_s = self._load.batch * self._load.batch_workers / self._load.rate
        due = time.monotonic()
        while not self._stop.is_set():
            visits = self._world.visits(rng, self._load.batch)
            with _Flight(self, worker):
                answers = caller.select_batch([self._request(caller, visit) for visit in visits])
                answered = [(v, answer) for v, answer in zip(visits, answers, strict=True) if isinstance(answer, SelectResponse)]
                self.tally.count([response for _, response in answered], refused=len(visits) - len(answered))
                caller.send_feedback(self._events(rng, answered))
            due = max(due + pause_s, time.monotonic() - pause_s)
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _heartbeats(self, worker: int) -> None:
        """Sends late rewards that are due, and the time up to which everything has been sent."""
        caller = self._connect()
        while not self._stop.wait(0.1):
            caller.send_feedback([*self._due_late(), *self._beats(final=False)])

    def _request(self, caller: PolicyClient, visit: Visitor) -> SelectRequest:
        return caller.request(self._world.task, unit_id=visit.unit_id, context=visit.context, slate_size=self._slate_size)

    def _events(self, rng: np.random.Generator, answered: Sequence[tuple[Visitor, SelectResponse]]) -> list[Event]:
        return [event for visit, response in answered for event in self._reaction(rng, visit, response)]

    def _reaction(self, rng: np.random.Generator, visit: Visitor, response: SelectResponse) -> list[Event]:
        slate = [slot.action for slot in response.slots]
        happening = self._world.happens(rng, visit, slate)
        task, name = self._world.task, response.decision_id.hex()
        common: dict[str, Any] = {"decision_id": response.decision_id, "unit_id": visit.unit_id, "producer": _PRODUCER}
        seen = [(slot, slate[slot]) for slot in happening.seen]
        shown = events.impression(task, seen=seen, event_id=f"{name}-seen", event_time_us=_now_us(), **common)
        rewards = [
            events.reward(task, name=outcome, value=value, slot=slot, event_id=f"{name}-{outcome}", event_time_us=_now_us(), **common)
            for outcome, slot, value in happening.rewards
        ]
        return [shown, *(sent for reward in rewards for sent in self._sent_as_producers_do(rng, reward))]

    def _sent_as_producers_do(self, rng: np.random.Generator, event: Event) -> list[Event]:
        """Mostly once and at once; now and then twice, or late."""
        fate = rng.random()
        if fate < _LATE:
            with self._lock:
                self._sent += 1
                heapq.heappush(self._late, (time.monotonic() + self._load.late_s, self._sent, event))
            return []
        return [event, event] if fate < _LATE + _REPEATED else [event]

    def _due_late(self) -> list[Event]:
        due = []
        with self._lock:
            while self._late and self._late[0][0] <= time.monotonic():
                due.append(heapq.heappop(self._late)[2])
        return due

    def _beats(self, *, final: bool) -> list[Event]:
        """One heartbeat a source: every event up to this time has been sent, but for those that are late on purpose."""
        with self._lock:
            time_us = min([_now_us(), *self._in_flight.values()]) - 1
        return [events.heartbeat(source, event_time_us=time_us, final=final, producer=_PRODUCER) for source in ("impressions", "rewards")]


class _Flight:
    """While a worker is between its request and its feedback, heartbeats must not pass the time at which it began."""

    def __init__(self, traffic: Traffic, worker: int) -> None:
        self._traffic, self._worker = traffic, worker

    def __enter__(self) -> None:
        with self._traffic._lock:
            self._traffic._in_flight[self._worker] = _now_us()

    def __exit__(self, *_: object) -> None:
        with self._traffic._lock:
            del self._traffic._in_flight[self._worker]


def _now_us() -> int:
    return time.time_ns() // 1_000
