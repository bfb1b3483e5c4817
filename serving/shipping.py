"""Ships a log to Kafka: what stands in the log, in its order, at least once. Nothing leaves the log before the broker has it.

The place up to which everything was acknowledged stands in a file beside the log, so a killed shipper goes on where it was, and sends at
most one chunk twice; readers know a decision by its id and an event by its own. What librdkafka may say, and what is done:

- its queue is full (BufferError): wait for room and offer the same record again; the log is the buffer, not memory.
- a record was not delivered (broker away, timed out): the whole chunk is sent again, ever less often, from the acknowledged place.
- a fatal error (an idempotent producer that lost its sequence): that producer is of no more use; a new one sends the chunk again.
- the end of the process: `close` waits for what is on its way; what does not arrive in time is sent after the next start.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from bandits.durable import write_whole
from protos.events_pb2 import Event, Heartbeat
from protos.framing import Record
from protos.log_files import SHIPPED, end_offset, read_log, segments, shipped_offset

__all__ = ["Lag", "Shipper", "ShippingFailed", "kafka_producer", "lag_of", "topic_of"]

_logger = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 20
_PEEK_BYTES = 64 << 10
_METADATA_TIMEOUT_S = 10.0
_TOPICS = {"decision": "decisions", "impression": "impressions", "reward": "rewards", "signal": "signals"}


class Lag(NamedTuple):
    """What is not shipped yet: bytes of the log, and how long the oldest of them has stood there, seconds."""

    size_bytes: int
    age_s: float


def lag_of(log: Path, *, now_us: int) -> Lag:
    """How far the broker is behind a log that another process ships, from the files alone."""
    offset = _read_mark(log)
    size = max(end_offset(log) - offset, 0)
    first = next((item for item in read_log(log, offset=offset, max_bytes=_PEEK_BYTES).items if isinstance(item, Record)), None)
    age_s = (now_us - Event.FromString(first.payload).append_time_us) / 1e6 if first is not None else 0.0
    return Lag(size, max(age_s, 0.0))


class ShippingFailed(Exception):
    """A chunk did not arrive whole; it is sent again. Never seen outside this file and its tests."""


def topic_of(event: Event) -> str:
    """Where an event goes; a heartbeat to the stream that it speaks for."""
    kind = str(event.WhichOneof("kind"))
    return event.heartbeat.source if kind == "heartbeat" else _TOPICS[kind]


def kafka_producer(bootstrap: str, settings: Mapping[str, Any] | None = None) -> Any:
    """An idempotent producer with the partitioner of the other client libraries; `settings` are librdkafka's own."""
    own = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all", "partitioner": "murmur2_random"}
    defaults = {"linger.ms": 5, "compression.type": "lz4", "delivery.timeout.ms": 30_000}
    return Producer({**defaults, **(settings or {}), **own}, logger=_logger)


class Shipper:
    """A thread that follows one log."""

    def __init__(
        self, log: Path, *, producer: Callable[[], Any], now_us: Callable[[], int], idle_s: float = 0.05, most_retry_s: float = 10.0
    ) -> None:
        """`producer` makes a producer, again after a fatal error; `idle_s`: how often a log without news is looked at."""
        self._log, self._mark = log, log / SHIPPED
        self._make, self._now_us = producer, now_us
        self._idle_s, self._most_retry_s = idle_s, most_retry_s
        self._producer: Any = None
        self._partitions: dict[str, int] = {}
        self._offset = _read_mark(log)
        self._oldest_us = 0
        self._stop = threading.Event()
        #: Chunks that had to be sent again, and producers that ended fatally.
        self.retries, self.fatal_errors = 0, 0
        self._thread = threading.Thread(target=self._run, name=f"ship-{log.name}", daemon=True)

    def start(self) -> None:
        """Begins to ship."""
        self._thread.start()

    @property
    def lag(self) -> Lag:
        """How far the broker is behind the log."""
        size = max(end_offset(self._log) - self._offset, 0)
        oldest_us = self._oldest_us
        return Lag(size, max((self._now_us() - oldest_us) / 1e6, 0.0) if size and oldest_us else 0.0)

    def close(self, *, timeout_s: float) -> None:
        """Ships what stands in the log, for at most so long, and ends."""
        self._stop.set()
        self._thread.join(timeout_s)

    def step(self) -> bool:
        """Ships one chunk; False = there is nothing new. Raises ShippingFailed, and then nothing has moved."""
        chunk = read_log(self._log, offset=self._offset, max_bytes=_CHUNK_BYTES)
        events = [Event.FromString(item.payload) for item in chunk.items if isinstance(item, Record)]
        self._oldest_us = events[0].append_time_us if events else 0
        failures: list[Any] = []
        try:
            self._producer = self._producer or self._make()
            for event in events:
                self._send(event, failures)
            if self._producer.flush(self._flush_s) or failures:
                raise ShippingFailed(str(failures[0]) if failures else "not acknowledged in time")
        except KafkaException as error:
            failures.append(error.args[0])
            raise ShippingFailed(str(error)) from error
        finally:
            if failures:
                self._let_go(fatal=any(map(_is_fatal, failures)))
        moved = chunk.next_offset != self._offset
        if moved:
            write_whole(self._mark, f"{chunk.next_offset}\n".encode())
            self._offset = chunk.next_offset
        return moved

    @property
    def _flush_s(self) -> float:
        return 40.0

    def _send(self, event: Event, failures: list[Any]) -> None:
        topic = topic_of(event)
        if event.HasField("heartbeat"):
            for partition in range(self._partition_count(topic)):
                beat = Event(heartbeat=Heartbeat(), append_time_us=event.append_time_us)
                beat.heartbeat.CopyFrom(event.heartbeat)
                beat.heartbeat.partition = partition
                self._produce(failures, topic, beat.SerializeToString(), partition=partition)
            return
        body: Any = getattr(event, str(event.WhichOneof("kind")))
        self._produce(failures, topic, event.SerializeToString(), key=body.unit_id)

    def _produce(self, failures: list[Any], topic: str, payload: bytes, **where: Any) -> None:
        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(error)

        while True:
            try:
                self._producer.produce(topic, payload, on_delivery=delivered, **where)
                self._producer.poll(0)
                return
            except BufferError:
                if failures:
                    raise ShippingFailed(str(failures[0])) from None
                self._producer.poll(0.1)

    def _partition_count(self, topic: str) -> int:
        if topic not in self._partitions:
            found = self._producer.list_topics(topic, timeout=_METADATA_TIMEOUT_S).topics[topic]
            if found.error is not None:
                raise KafkaException(found.error)
            self._partitions[topic] = len(found.partitions)
        return self._partitions[topic]

    def _let_go(self, *, fatal: bool) -> None:
        """Forgets what the producer still holds: the chunk is sent again from the log. A fatal error ends the producer too."""
        self.fatal_errors += fatal
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(1.0)
        if fatal:
            self._producer = None

    def _run(self) -> None:
        failed = 0
        while True:
            stopping = self._stop.is_set()
            try:
                news, failed = self.step(), 0
            except Exception as error:
                # Whatever it was, the log keeps the records and the next try comes: a shipper that died would fill the disk.
                failed, news = failed + 1, False
                self.retries += 1
                _logger.warning("log %s: not shipped (%s); sent again", self._log.name, error)
                self._stop.wait(min(0.1 * 2**failed, self._most_retry_s))
            if stopping and (failed or not news):
                return
            if not news:
                self._stop.wait(self._idle_s)


def _is_fatal(error: Any) -> bool:
    """Is a producer of no more use? `produce` of one that has ended says _FATAL, of which librdkafka's own flag knows nothing."""
    return bool(error.fatal()) or error.code() == KafkaError._FATAL


def _read_mark(log: Path) -> int:
    """Where to go on; the beginning of the log where there is no mark, or none that can be read."""
    found = segments(log)
    return max(shipped_offset(log) or 0, found[0][0] if found else 0)
