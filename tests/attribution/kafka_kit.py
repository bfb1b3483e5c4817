"""Topics on a real broker, filled by hand: each test has its own, told apart by a prefix."""

import functools
import itertools
import os
import random
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from attribution.kafka_source import TOPICS
from protos.events_pb2 import Event
from tests.attribution.event_kit import decision, finals, impression, reward, topic_of

PARTITIONS = 4
_NUMBERS = itertools.count()


class Wire:
    """Four topics of one test, and a producer. Record times are the producer's, so that what is late is late on every run."""

    def __init__(self, bootstrap: str, *, partitions: int = PARTITIONS, replicas: int = 1) -> None:
        self.bootstrap, self.partitions = bootstrap, partitions
        self._known: set[str] = set()
        self.prefix = f"t{os.getpid()}-{next(_NUMBERS)}-"
        new = [
            NewTopic(self.prefix + topic, partitions, replicas, config={"message.timestamp.type": "CreateTime", "retention.ms": "-1"})
            for topic in TOPICS
        ]
        admin = AdminClient({"bootstrap.servers": bootstrap})
        for future in admin.create_topics(new).values():
            future.result(30)
        while not all(self.prefix + topic in admin.list_topics(timeout=30).topics for topic in TOPICS):
            pass

    @functools.cached_property
    def producer(self) -> Producer:
        return Producer({"bootstrap.servers": self.bootstrap, "partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True})

    def send(self, events: Iterable[Event]) -> None:
        """Every event once; heartbeats to each partition. In each partition they stand in this order."""
        for event in events:
            kind = str(event.WhichOneof("kind"))
            body, at, topic = getattr(event, kind), event.append_time_us // 1000, self.prefix + topic_of(event)
            if kind != "heartbeat":
                self._produce(topic, event, at, key=body.unit_id)
                continue
            for partition in range(self.partitions):
                body.partition = partition
                self._produce(topic, event, at, partition=partition)
        assert self.producer.flush(30) == 0

    def _produce(self, topic: str, event: Event, at_ms: int, **where: Any) -> None:
        self.producer.produce(topic, event.SerializeToString(), timestamp=at_ms, **where)
        self.producer.poll(0)
        if topic not in self._known:
            # What a producer takes before it knows a topic's partitions may come to stand behind what it takes afterwards.
            assert self.producer.flush(30) == 0
            self._known.add(topic)


def story(rng: random.Random, *, units: int) -> list[Event]:
    """Decisions of many units with their feedback, in log order: some twice, some late, some contradictory; and the end of each source."""
    events: list[Event] = []
    for key in range(1, units + 1):
        at, unit = key * 0.05, f"u{key}"
        events.append(decision(key, at, unit=unit))
        if rng.random() < 0.7:
            events.append(impression(f"i{key}", at + 1.0, key=key, unit=unit if rng.random() < 0.95 else "someone"))
        for number in range(rng.choice([0, 0, 0, 1, 2])):
            delay = rng.choice([2.0, 5.0, 15.0])
            events.append(
                reward(f"r{key}-{number}", at + delay, key=key, unit=unit, slot=0, logged=at + delay + rng.choice([0.0, 0.0, 20.0]))
            )
    events += rng.sample(events, k=len(events) // 20)
    last = max(event.append_time_us for event in events)
    ends = finals()
    for end in ends:
        end.append_time_us = last
    return [*sorted(events, key=lambda event: event.append_time_us), *ends]


def sent(events: Sequence[Event]) -> list[Event]:
    """The events as the reference join wants them: with the append time that Kafka keeps, whole milliseconds."""
    kept = []
    for event in events:
        copy = Event()
        copy.CopyFrom(event)
        copy.append_time_us = event.append_time_us // 1000 * 1000
        kept.append(copy)
    return kept
