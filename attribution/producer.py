"""For producers of events in Python: topic, key, partitioner, ids, and a flush that says what did not arrive. Touches the network."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from attribution.envelope import pack
from attribution.errors import ProducerError
from attribution.partitioner import partition_of
from protos.events_pb2 import Event

__all__ = ["EventProducer", "event_id"]

_TOPICS = {"decision": "decisions", "impression": "impressions", "reward": "rewards", "signal": "signals"}
_FLUSH_S = 30.0


def event_id(*parts: str | bytes | int) -> str:
    """An id that is the same for the same parts: an event that is sent again after a crash is then a duplicate, and counts once."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return digest.hexdigest()[:32]


class EventProducer:
    """Sends events; a context manager that flushes at its end. `settings` are librdkafka's own (security, say)."""

    def __init__(self, bootstrap: str, *, prefix: str = "", settings: Mapping[str, Any] | None = None) -> None:
        own = {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": 5}
        self._producer = Producer({**(settings or {}), **own})
        self._prefix, self._bootstrap = prefix, bootstrap
        self._partitions: dict[str, int] = {}
        self._failed: list[str] = []

    def __enter__(self) -> "EventProducer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.flush()

    def send(self, event: Event) -> None:
        """One event, one message. A heartbeat goes to the partition that it speaks for."""
        kind = str(event.WhichOneof("kind"))
        body = getattr(event, kind)
        if kind == "heartbeat":
            self._produce(body.source, event.SerializeToString(), partition=body.partition)
        else:
            self._produce(_TOPICS[kind], event.SerializeToString(), key=body.unit_id)

    def send_many(self, events: Iterable[Event]) -> None:
        """Many events in one message a topic and partition: the cheapest way for a producer that gathers some hundreds."""
        parts: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        for event in events:
            kind = str(event.WhichOneof("kind"))
            topic = _TOPICS[kind]
            parts[topic, partition_of(getattr(event, kind).unit_id, self._count(topic))].append(event.SerializeToString())
        for (topic, partition), payloads in parts.items():
            self._produce(topic, pack(payloads), partition=partition)

    def resend(self, topic: str, partition: int, payload: bytes) -> None:
        """A record as it came, to where it was: a dead letter after its cause is mended."""
        self._produce(topic, payload, partition=partition)

    def flush(self) -> None:
        """Waits until everything has arrived. Raises ProducerError with how many did not, and why: send those again."""
        left = self._producer.flush(_FLUSH_S)
        failed, self._failed = self._failed, []
        if left or failed:
            reason = failed[0] if failed else f"no answer within {_FLUSH_S:.0f} s"
            raise ProducerError(
                f"{left + len(failed)} events did not arrive at {self._bootstrap} ({reason}); send them again, ids unchanged"
            )

    def _count(self, topic: str) -> int:
        """Partitions of a topic, asked once."""
        if topic not in self._partitions:
            self._partitions[topic] = len(
                self._producer.list_topics(self._prefix + topic, timeout=_FLUSH_S).topics[self._prefix + topic].partitions
            )
        return self._partitions[topic]

    def _produce(self, topic: str, value: bytes, **place: Any) -> None:
        while True:
            try:
                self._producer.produce(self._prefix + topic, value, on_delivery=self._delivered, **place)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(str(error))
