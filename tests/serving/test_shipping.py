"""Shipping to Kafka against librdkafka's mock cluster (small volumes: it drops what is beyond 5 MiB a partition)."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from protos.events_pb2 import Decision, Event, Heartbeat, Reward
from serving.bounds import LogBounds, LogGuard
from serving.decision_log import LogWriter, stamp_append
from serving.errors import LogUnavailable
from serving.shipping import Lag, Shipper, ShippingFailed, kafka_producer

PARTITIONS = 4  # of an auto-created topic of the mock
NOW_US = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    cluster = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    brokers = cluster.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    cluster.flush(1)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LogWriter]:
    found = LogWriter(tmp_path / "feedback", stamp=stamp_append, now_us=lambda: NOW_US, segment_bytes=4096, sync_s=0.001)
    yield found
    found.close()


def rewards(name: str, count: int) -> list[Event]:
    return [Event(reward=Reward(event_id=f"{name}-{index}", unit_id=f"u{index}", name="buy", value=0.0)) for index in range(count)]


def shipper_of(log: Path, bootstrap: str, **settings: Any) -> Shipper:
    return Shipper(log, producer=lambda: kafka_producer(bootstrap, settings), now_us=lambda: NOW_US + 5_000_000, idle_s=0.001)


def shipped(bootstrap: str, topic: str, *, among: str) -> list[Event]:
    """What stands in a topic, of the events whose id begins so."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False})
    consumer.list_topics(topic, timeout=10)
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(PARTITIONS)}
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in ends])
    found = []
    for _ in range(sum(ends.values())):
        message = consumer.poll(10)
        event = Event.FromString(message.value())
        assert event.HasField("heartbeat") or message.key() == event.reward.unit_id.encode()
        found.append(event)
    consumer.close()
    return [event for event in found if event.heartbeat.producer == among or event.reward.event_id.startswith(f"{among}-")]


def drained(shipper: Shipper) -> None:
    while shipper.step():
        pass


def test_everything_in_the_log_arrives_once_across_segments_and_restarts(writer: LogWriter, tmp_path: Path, bootstrap: str) -> None:
    log = tmp_path / "feedback"
    for _ in range(3):
        writer.append(rewards("a", 30))
    first = shipper_of(log, bootstrap)
    first.step()
    drained(shipper_of(log, bootstrap))
    assert len(shipped(bootstrap, "rewards", among="a")) == 90
    assert shipper_of(log, bootstrap).lag == Lag(0, 0.0)


def test_a_full_queue_waits_for_room_and_loses_nothing(writer: LogWriter, tmp_path: Path, bootstrap: str) -> None:
    writer.append(rewards("full", 300))
    drained(shipper_of(tmp_path / "feedback", bootstrap, **{"queue.buffering.max.messages": 2, "linger.ms": 0}))
    assert {event.reward.event_id for event in shipped(bootstrap, "rewards", among="full")} == {f"full-{index}" for index in range(300)}


def test_a_heartbeat_goes_to_every_partition(writer: LogWriter, tmp_path: Path, bootstrap: str) -> None:
    writer.append([Event(heartbeat=Heartbeat(source="rewards", event_time_us=1, producer="beat"))])
    drained(shipper_of(tmp_path / "feedback", bootstrap))
    assert sorted(event.heartbeat.partition for event in shipped(bootstrap, "rewards", among="beat")) == list(range(PARTITIONS))


def test_while_the_broker_is_away_nothing_moves_and_then_all_of_it_arrives(writer: LogWriter, tmp_path: Path, bootstrap: str) -> None:
    writer.append(rewards("away", 20))
    nobody = shipper_of(tmp_path / "feedback", "127.0.0.1:1", **{"delivery.timeout.ms": 50, "linger.ms": 0})
    with pytest.raises(ShippingFailed):
        nobody.step()
    assert nobody.lag.size_bytes > 0 and nobody.lag.age_s == 5.0
    drained(shipper_of(tmp_path / "feedback", bootstrap))
    assert len(shipped(bootstrap, "rewards", among="away")) == 20


class Scripted:
    """A producer that ends as no mock cluster can make one end; a chunk's first record gets the error."""

    def __init__(self, error: KafkaError | None) -> None:
        self.error, self.sent, self.purged = error, 0, False

    def produce(self, topic: str, payload: bytes, *, on_delivery: Any, **_: Any) -> None:
        self.sent += 1
        on_delivery(self.error if self.sent == 1 else None, None)

    def poll(self, timeout_s: float) -> int:
        return 0

    def flush(self, timeout_s: float) -> int:
        return 0

    def purge(self) -> None:
        self.purged = True


@pytest.mark.parametrize("fatal", [True, False])
def test_a_fatal_error_takes_a_new_producer_and_any_other_the_same(writer: LogWriter, tmp_path: Path, fatal: bool) -> None:
    writer.append(rewards("f", 3))
    made = [Scripted(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "lost", fatal=fatal)), Scripted(None)]
    waiting = iter(made)
    shipper = Shipper(tmp_path / "feedback", producer=lambda: next(waiting), now_us=lambda: NOW_US)
    with pytest.raises(ShippingFailed):
        shipper.step()
    assert made[0].purged and shipper.fatal_errors == fatal
    made[0].error = None
    drained(shipper)
    assert made[fatal].sent == (3 if fatal else 6) and shipper.lag.size_bytes == 0


# Every error that librdkafka has a name for.
CODES = {name: code for name, code in sorted(vars(KafkaError).items()) if isinstance(code, int) and name.strip("_").isupper()}
# It is no error.
del CODES["NO_ERROR"]


class Raising(Scripted):
    """A producer whose `produce`, or whose queue, says the error instead of the delivery."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(None)
        self.raised: Exception | None = KafkaException(error)

    def produce(self, topic: str, payload: bytes, *, on_delivery: Any, **_: Any) -> None:
        if self.raised is not None:
            raised, self.raised = self.raised, None
            raise raised
        super().produce(topic, payload, on_delivery=on_delivery)


@pytest.fixture(scope="module")
def shipped_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("codes")
    made = LogWriter(log, stamp=stamp_append, now_us=lambda: NOW_US, segment_bytes=4096, sync_s=0.001)
    made.append(rewards("c", 3))
    made.close()
    return log


@pytest.mark.parametrize("fatal", [False, True], ids=["", "fatal"])
@pytest.mark.parametrize("producer", [Scripted, Raising])
def test_whatever_librdkafka_says_nothing_moves_and_the_chunk_is_sent_again(
    producer: type[Scripted], fatal: bool, shipped_log: Path
) -> None:
    """All names of librdkafka's errors, delivered and raised. One that ends a producer, and only such a one, is answered by a new one."""
    for name, code in CODES.items():
        (shipped_log / "shipped").unlink(missing_ok=True)
        error = KafkaError(code, "said so", fatal=fatal)
        bad, good = producer(error), Scripted(None)
        made = iter([bad, good])
        shipper = Shipper(shipped_log, producer=lambda made=made: next(made), now_us=lambda: NOW_US)
        with pytest.raises(ShippingFailed):
            shipper.step()
        ended = fatal or name == "_FATAL"
        assert shipper.lag.size_bytes > 0 and bad.purged and shipper.fatal_errors == ended, name
        bad.error = None
        drained(shipper)
        assert shipper.lag.size_bytes == 0 and (good if ended else bad).sent >= 3, name


def test_there_is_no_error_of_librdkafka_that_was_left_out() -> None:
    assert len(CODES) > 150 and {"_ALL_BROKERS_DOWN", "_QUEUE_FULL", "_FATAL", "MSG_SIZE_TOO_LARGE", "UNKNOWN_PRODUCER_ID"} <= set(CODES)


def test_the_thread_outlives_errors_that_are_none_of_librdkafkas(writer: LogWriter, tmp_path: Path) -> None:
    """A producer that cannot even be made, then one whose queue stays full: the log is shipped by the third."""
    writer.append(rewards("t", 2))
    bad, good, shipped_all = Raising(KafkaError(KafkaError._FATAL)), Scripted(None), threading.Event()
    makers: list[Any] = [OSError("no library"), bad, good]

    def make() -> Any:
        made = makers.pop(0)
        if isinstance(made, Exception):
            raise made
        return made

    good.flush = lambda timeout_s: shipped_all.set() or 0
    shipper = Shipper(tmp_path / "feedback", producer=make, now_us=lambda: NOW_US, idle_s=0.001, most_retry_s=0.001)
    shipper.start()
    assert shipped_all.wait(20)
    shipper.close(timeout_s=20)
    assert shipper.retries == 2 and shipper.fatal_errors == 1 and good.sent == 2 and shipper.lag.size_bytes == 0


def test_a_queue_that_stays_full_after_a_failure_is_left(writer: LogWriter, tmp_path: Path) -> None:
    writer.append(rewards("q", 3))

    class Full(Scripted):
        def produce(self, topic: str, payload: bytes, *, on_delivery: Any, **_: Any) -> None:
            if self.sent:
                raise BufferError("queue full")
            super().produce(topic, payload, on_delivery=on_delivery)

    full = Full(KafkaError(KafkaError._MSG_TIMED_OUT))
    shipper = Shipper(tmp_path / "feedback", producer=lambda: full, now_us=lambda: NOW_US)
    with pytest.raises(ShippingFailed, match="TIMED_OUT"):
        shipper.step()
    assert full.purged and shipper.lag.size_bytes > 0


def test_the_end_of_the_process_ships_what_stands_in_the_log(writer: LogWriter, tmp_path: Path, bootstrap: str) -> None:
    shipper = shipper_of(tmp_path / "feedback", bootstrap)
    shipper.start()
    writer.append(rewards("end", 50))
    shipper.close(timeout_s=20)
    assert len(shipped(bootstrap, "rewards", among="end")) == 50


@pytest.mark.parametrize(
    ("lag", "reserve", "named"),
    [(Lag(2, 0.0), 0.0, "log_max_bytes"), (Lag(1, 9.0), 0.0, "log_max_age_s"), (Lag(0, 0.0), 1.1, "disk_reserve")],
)
def test_a_bound_that_is_passed_closes_the_log_until_it_is_kept_again(tmp_path: Path, lag: Lag, reserve: float, named: str) -> None:
    now, found = iter(range(10)), [lag]
    guard = LogGuard(tmp_path, LogBounds(1, 8.0, reserve), lag=lambda: found[0], now_s=lambda: float(next(now)))
    with pytest.raises(LogUnavailable, match=named):
        guard.check()
    found[0], guard._bounds = Lag(0, 0.0), LogBounds(1, 8.0, 0.0)
    guard.check()
    assert guard.reason == ""


def test_between_two_looks_the_answer_stands(tmp_path: Path) -> None:
    looks: list[int] = []
    guard = LogGuard(tmp_path, LogBounds(1, 1.0, 0.0), lag=lambda: looks.append(1) or Lag(0, 0.0), now_s=lambda: 0.0)
    for _ in range(5):
        guard.check()
    assert len(looks) == 1


def test_a_decision_is_keyed_by_its_unit(tmp_path: Path) -> None:
    sent: dict[str, Any] = {}

    class Noting(Scripted):
        def produce(self, topic: str, payload: bytes, *, on_delivery: Any, **where: Any) -> None:
            sent.update(topic=topic, **where)

    log = LogWriter(tmp_path / "decisions", stamp=stamp_append, now_us=lambda: NOW_US, segment_bytes=4096, sync_s=0.001)
    log.append_decisions([Decision(unit_id="member").SerializeToString()])
    Shipper(tmp_path / "decisions", producer=lambda: Noting(None), now_us=lambda: NOW_US).step()
    assert sent == {"topic": "decisions", "key": "member"}
    log.close()
