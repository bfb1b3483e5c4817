"""The events of the attribution benchmark, and topics filled with them. Touches the network.

A decision every 10.8 ms of event time (1M in three hours), 70 % with an impression, 10 % of these with a reward, up to five minutes of
disorder, 2 % repeats. Record times are arrival times, so every joiner sees the same lateness.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from attribution.envelope import pack
from attribution.partitioner import partition_of
from protos.events_pb2 import Decision, Event, Heartbeat, Impression, Reward, SeenSlot

PARTITIONS, TOPICS = 2, ("decisions", "impressions", "rewards", "signals")
T0_US, STEP_US, DISORDER_US = 1_700_000_000_000_000, 10_800, 300_000_000
ACTIONS = [f"action-{number}" for number in range(8)]
TASK = """
task: news
rewards:
  outcomes:
    click: {window_s: 600.0, aggregate: max}
attribution:
  impression_window_s: 600.0
  grace_s: 300.0
  correction_horizon_s: 600.0
"""


class Sent(NamedTuple):
    """One event: arrival time (us), topic, partition, serialised."""

    at_us: int
    topic: str
    partition: int
    payload: bytes


def generated(decisions: int, *, seed: int = 0) -> list[Sent]:
    """The events in arrival order, without the ends of the sources."""
    rng = np.random.default_rng(seed)
    context = rng.random(16).astype("<f4").tobytes()
    partitions = [partition_of(f"unit-{unit}", PARTITIONS) for unit in range(50_000)]
    made: list[Sent] = []
    for key in range(decisions):
        unit = key % 50_000
        for topic, event in _story(key, f"unit-{unit}", context, rng):
            arrival = T0_US + key * STEP_US + 2_000 + int(rng.random() * DISORDER_US)
            made.append(Sent(arrival, topic, partitions[unit], event.SerializeToString()))
    made += [made[place] for place in rng.integers(0, len(made), len(made) // 50)]
    return sorted(made)


def _story(key: int, unit: str, context: bytes, rng: np.random.Generator) -> Iterator[tuple[str, Event]]:
    at, decision_id, action = T0_US + key * STEP_US, key.to_bytes(16, "big"), ACTIONS[key % 8]
    known = {"tenant": "default", "task": "news", "decision_id": decision_id, "unit_id": unit}
    body = Decision(**known, request_id=f"r{key}", event_time_us=at, context=context, policy="linear_thompson", snapshot_digest="a" * 64)
    body.candidates.actions.extend(ACTIONS)
    body.slots.add(action=action, numerator=2**28, propensity=0.125, score=0.5)
    yield "decisions", Event(decision=body)
    if rng.random() < 0.7:
        seen = [SeenSlot(slot=0, action=action)]
        yield "impressions", Event(impression=Impression(**known, event_id=f"i{key}", event_time_us=at + 1_000, seen=seen))
        if rng.random() < 0.1:
            yield "rewards", Event(reward=Reward(**known, event_id=f"r{key}", event_time_us=at + 2_000, name="click", value=1.0, slot=0))


def fill(bootstrap: str, prefix: str, events: Sequence[Sent], *, batch: int) -> None:
    """Makes the topics, sends the events (`batch` of one topic and partition in a message; 1 = each alone) and the end of each source."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    config = {"message.timestamp.type": "CreateTime", "retention.ms": "-1", "retention.bytes": "-1"}
    for future in admin.create_topics([NewTopic(prefix + topic, PARTITIONS, 1, config=config) for topic in TOPICS]).values():
        future.result(30)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 500_000})
    waiting: dict[tuple[str, int], list[Sent]] = defaultdict(list)

    def send(parts: Sequence[Sent]) -> None:
        value = parts[0].payload if batch == 1 else pack([one.payload for one in parts])
        while True:
            try:
                key = None if batch > 1 else parts[0].payload[:1]
                producer.produce(prefix + parts[0].topic, value, key=key, partition=parts[0].partition, timestamp=parts[-1].at_us // 1000)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)

    for event in events:
        gathered = waiting[event.topic, event.partition]
        gathered.append(event)
        if len(gathered) == batch:
            send(gathered)
            gathered.clear()
    for gathered in waiting.values():
        if gathered:
            send(gathered)
    for topic in TOPICS[:3]:
        for partition in range(PARTITIONS):
            end = Event(heartbeat=Heartbeat(source=topic, partition=partition, final=True))
            producer.produce(prefix + topic, end.SerializeToString(), partition=partition, timestamp=events[-1].at_us // 1000)
    assert producer.flush(120) == 0
