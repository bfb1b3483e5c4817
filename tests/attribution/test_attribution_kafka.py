"""The Kafka source against librdkafka's own mock cluster (small volumes: it drops what is beyond 5 MiB a partition)."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Producer

from attribution.decode import decode
from attribution.envelope import BATCH_SCHEMA, event_sizes, gathered, pack
from attribution.errors import LostRecords, SourceError
from attribution.fetch_bounds import FetchBounds, Room, Size
from attribution.kafka_source import TOPICS, KafkaSource
from attribution.sources import Partition
from attribution.tables import OBSERVATIONS_DIR
from attribution.worker import Worker
from protos.events_pb2 import Event
from protos.observation_reader import latest_revisions
from tests.attribution.event_kit import decision, finals, impression, join_config, reward, topic_of
from tests.attribution.reference_join import reference_join, said

PARTITIONS = 4  # of an auto-created topic of the mock


class Broker:
    """A mock cluster, and a producer with the partitioner of every other client library."""

    def __init__(self) -> None:
        self.producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "partitioner": "murmur2_random"})
        found = self.producer.list_topics(timeout=10).brokers.values()
        self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in found)
        for topic in TOPICS:
            self.producer.list_topics(topic, timeout=10)

    def send(self, events: Sequence[Event]) -> None:
        for event in events:
            body = getattr(event, str(event.WhichOneof("kind")))
            at = event.append_time_us // 1000
            if event.WhichOneof("kind") == "heartbeat":
                self._to_all(event, at)
            else:
                self.producer.produce(topic_of(event), event.SerializeToString(), key=body.unit_id, timestamp=at)
        assert self.producer.flush(10) == 0

    def _to_all(self, event: Event, at: int) -> None:
        for partition in range(PARTITIONS):
            event.heartbeat.partition = partition
            self.producer.produce(topic_of(event), event.SerializeToString(), partition=partition, timestamp=at)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    yield Broker()


def joined(source: KafkaSource, worker: Worker, *, cycles: int = 60) -> Worker:
    for _ in range(cycles):
        worker.cycle()
        if worker.final:
            source.close()
            return worker
    raise AssertionError(f"not final after {cycles} fetches")


def test_events_from_all_partitions_are_joined_once_across_a_restart(broker: Broker, tmp_path: Path) -> None:
    config = join_config(tmp_path / "tasks")
    units = [f"u{number}" for number in range(12)]
    events = [decision(key, float(key), unit=unit) for key, unit in enumerate(units, 1)]
    events += [impression(f"i{key}", key + 1.0, key=key, unit=unit) for key, unit in enumerate(units, 1)]
    broker.send(events)
    first = KafkaSource(broker.bootstrap, timeout_s=1.0, max_records=7)
    assert len(first.partitions()) == PARTITIONS * len(TOPICS)
    worker = Worker(first, out=tmp_path / "out", config=config)
    worker.cycle()
    first.close()
    rewards = [reward(f"r{key}", key + 2.0, key=key, unit=unit, slot=0) for key, unit in enumerate(units, 1)]
    broker.send([*rewards, *rewards[:3], *finals(60.0)])
    second = KafkaSource(broker.bootstrap, timeout_s=1.0, max_records=7)
    joined(second, Worker(second, out=tmp_path / "out", config=config))
    table = latest_revisions(tmp_path / "out" / OBSERVATIONS_DIR, task="news")
    assert {row["decision_id"]: said(row) for row in table.to_pylist()} == reference_join([*events, *rewards], config=config)
    assert len(set(table["partition"].to_pylist())) > 1 and set(table["revision"].to_pylist()) == {1}


def test_a_fetch_brings_topic_by_topic_and_each_partition_in_order() -> None:
    mixed = Broker()
    for number in range(40):
        for topic in ("decisions", "rewards"):
            mixed.producer.produce(topic, f"{topic} {number}".encode(), partition=number % 2, timestamp=1_700_000_000_000 + number)
        assert mixed.producer.flush(10) == 0
    source = KafkaSource(mixed.bootstrap, timeout_s=20.0, max_records=80)
    raws, offsets, _ = source.fetch({})
    source.close()
    topics, places = list(raws.topics), list(zip(raws.topics, raws.partitions, raws.offsets, strict=True))
    assert len(topics) == 80 and sum(one != other for one, other in itertools.pairwise(topics)) == 1
    assert isinstance(raws.payloads, pa.Array)
    assert raws.payloads.to_pylist() == [f"{topic} {2 * offset + number}".encode() for topic, number, offset in places]
    assert list(raws.append_times_us) == [(1_700_000_000_000 + 2 * offset + number) * 1_000 for _, number, offset in places]
    for place in {place[:2] for place in places}:
        read = [offset for *of, offset in places if tuple(of) == place]
        assert read == list(range(len(read))) and offsets[Partition(*place)] == len(read)


def test_a_backlog_comes_in_the_order_of_its_time_and_what_is_far_ahead_is_read_no_further() -> None:
    """A reward a second of 200 bytes, a decision a second of 4,000: read byte by byte, rewards would come twenty times as fast."""
    skewed, seconds = Broker(), 2_400
    for number in range(seconds):
        at = 1_700_000_000_000 + 1_000 * number
        skewed.producer.produce("decisions", b"d" * 4_000, partition=number % 2, timestamp=at)
        skewed.producer.produce("rewards", b"r" * 200, partition=number % 2, timestamp=at)
        assert number % 100 or skewed.producer.flush(10) == 0
    assert skewed.producer.flush(10) == 0
    # A few hundred kilobytes ahead are too many, and so the rewards are stopped and go on.
    small = {"max.partition.fetch.bytes": 100_000, "queued.min.messages": 1_000}
    source = KafkaSource(skewed.bootstrap, timeout_s=2.0, max_bytes=100_000, settings=small)
    offsets, paused, apart, read = dict[Partition, int](), 0, list[float](), dict[tuple[str, int], list[int]]()
    while sum(offsets.values()) < 2 * seconds:
        raws, offsets, _ = source.fetch(offsets)
        newest = dict[str, int]()
        for topic, number, offset, at_us in zip(raws.topics, raws.partitions, raws.offsets, raws.append_times_us, strict=True):
            read.setdefault((topic, number), []).append(offset)
            newest[topic] = max(newest.get(topic, 0), at_us)
        paused += bool(source._paused)
        if len(newest) == 2:
            apart.append(abs(newest["decisions"] - newest["rewards"]) / 1e6)
    source.close()
    assert read == {(topic, number): list(range(seconds // 2)) for topic in ("decisions", "rewards") for number in (0, 1)}
    assert np.median(apart) <= 60.0 and paused > 3


def test_a_record_that_the_broker_no_longer_holds_is_an_error_and_never_a_gap(broker: Broker) -> None:
    source = KafkaSource(broker.bootstrap, timeout_s=1.0)
    with pytest.raises(LostRecords, match="decisions/0"):
        for _ in range(20):
            source.fetch({Partition("decisions", 0): 10_000})
    source.close()


def test_ends_are_known_for_the_lag(broker: Broker) -> None:
    broker.send([decision(1_000, 1_000.0)])
    source = KafkaSource(broker.bootstrap, timeout_s=1.0)
    ends = source.end_offsets()
    assert sum(ends.values()) > 0 and set(ends) == set(source.partitions())
    source.commit(ends)
    source.close()


def test_a_broker_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attribution.kafka_source._METADATA_TIMEOUT_S", 0.2)
    with pytest.raises(SourceError, match=r"--bootstrap 127\.0\.0\.1:1"):
        KafkaSource("127.0.0.1:1")


def test_a_fetch_is_bounded_by_events_and_bytes_whatever_a_message_holds(tmp_path: Path) -> None:
    wide = Broker()
    events = [reward(f"r{number}", number / 100, unit="u1", slot=0).SerializeToString() for number in range(1_000)]
    batches = [pack(events[at : at + 50]) for at in range(0, 1_000, 50)]
    for value in [*events[:60], *batches]:
        wide.producer.produce("rewards", value, partition=0, timestamp=1_700_000_000_000)
    assert wide.producer.flush(10) == 0
    for bounds, most in (({"max_events": 120}, 120), ({"max_bytes": 2 * len(batches[0]) + 1}, 2 * 50 + 20), ({"max_records": 7}, 7 * 50)):
        source, offsets, fetches = KafkaSource(wide.bootstrap, timeout_s=0.3, **bounds), dict[Partition, int](), []
        while offsets.get(Partition("rewards", 0), 0) < 80:
            fetched = source.fetch(offsets)
            offsets = dict(fetched.offsets)
            fetches.append([decode(fetched.raws)["event_id"].to_list(), fetched.full])
        source.close()
        assert max(len(ids) for ids, _ in fetches) <= most and len(fetches) > 5
        assert [one for ids, _ in fetches for one in ids] == [f"r{number}" for number in [*range(60), *range(1_000)]], "once, in order"
        assert any(full for _, full in fetches)


def taken(room: Room, values: Sequence[bytes]) -> int:
    events, sizes = event_sizes(gathered(values))
    room.see(events, sizes)
    room.seen_enough(0)
    return room.take(events, sizes)


def test_a_message_that_is_larger_than_the_bound_comes_alone() -> None:
    room = Room(FetchBounds(records=10, events=5, size_bytes=100), largest=Size(1, 10))
    assert (room.chunk, taken(room, [b"x" * 200, b"y"]), room.full) == (5, 1, True)
    room = Room(FetchBounds(records=10, events=5, size_bytes=100), largest=Size(1, 10))
    assert (taken(room, [b"x" * 30]), room.chunk, taken(room, [b"x" * 60, b"x" * 60]), room.full) == (1, 2, 1, True)
    room = Room(FetchBounds(records=10, events=5, size_bytes=100), largest=Size(1, 10))
    assert (taken(room, [b"x" * 40]), room.full, taken(room, [b"x" * 40]), room.full) == (1, False, 1, True), "a third would not fit"
    room = Room(FetchBounds(records=3), largest=Size(1, 1))
    assert (taken(room, [b"x"] * 5), room.full, taken(room, [b"x"])) == (3, True, 0)
    room = Room(FetchBounds(size_bytes=100), largest=Size(1, 10))
    assert (room.take(np.ones(3, np.int64), np.full(3, 40)), room.full) == (2, True), "what waited already, and was not seen in this fetch"
    assert Room(FetchBounds(events=50_000), largest=Size(500, 1)).chunk == 100, "the first chunk is small where messages have been large"


def test_a_compressed_batch_counts_as_large_as_it_is_in_memory() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, BATCH_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_batch(pa.record_batch([pa.array([bytes(10_000)] * 100, pa.binary())], schema=BATCH_SCHEMA))
    small = sink.getvalue().to_pybytes()
    assert len(small) < 5_000
    room = Room(FetchBounds(size_bytes=2_500_000), largest=Size(1, 1))
    assert taken(room, [small] * 10) == 2 and room.largest.size_bytes > 1_000_000
