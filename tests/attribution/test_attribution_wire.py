"""Decoding many at a time: the fast reader and the protobuf library agree on anything; headers and batches around events; golden bytes."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution import wire
from attribution.decode import decode
from attribution.envelope import pack
from attribution.events import Raw
from attribution.partitioner import murmur2, partition_of
from attribution.producer import event_id
from protos import events_pb2
from protos.events_pb2 import Event, Impression, Signal
from tests.attribution.event_kit import decision, heartbeat, impression, reward, us

SAMPLES = [
    decision(1),
    decision(2, slate=("d",)),
    impression(),
    impression(seen=[]),
    reward(slot=0),
    reward(value=None),
    Event(signal=Signal(event_id="s", tenant="default", unit_id="u", name="login", event_time_us=us(0)), append_time_us=us(0)),
    heartbeat("rewards", 3.0),
    heartbeat("rewards", final=True),
    Event(),
]
SAMPLE_BYTES = [event.SerializeToString() for event in SAMPLES]


def rows(payloads: list[bytes]) -> list[dict[str, Any]]:
    return wire.event_columns(payloads).to_pylist()


def judged_by_protobuf(payloads: list[bytes]) -> list[dict[str, Any]]:
    sound = [wire._canonical(payload) for payload in payloads]
    return wire.columns_by_protobuf(sound, descriptor=events_pb2.Event.DESCRIPTOR).to_pylist()


def test_both_readers_give_the_same_columns() -> None:
    assert rows(SAMPLE_BYTES) == judged_by_protobuf(SAMPLE_BYTES)
    assert wire.key_columns(SAMPLE_BYTES).column("reward").to_pylist() == wire.event_columns(SAMPLE_BYTES).column("reward").to_pylist()
    assert rows([]) == []


mangled = st.builds(
    lambda payload, at, byte, cut: (payload[:at] + bytes([byte]) + payload[at + 1 :])[:cut],
    st.sampled_from(SAMPLE_BYTES),
    st.integers(0, 200),
    st.integers(0, 255),
    st.integers(0, 400),
)
two = st.builds(lambda a, b: a + b, st.sampled_from(SAMPLE_BYTES), st.sampled_from(SAMPLE_BYTES))


@given(payloads=st.lists(st.one_of(st.sampled_from(SAMPLE_BYTES), mangled, two, st.binary(max_size=40)), max_size=40))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_both_readers_agree_on_damaged_and_foreign_bytes(payloads: list[bytes]) -> None:
    assert repr(rows(payloads)) == repr(judged_by_protobuf(payloads))


@given(payloads=st.lists(st.one_of(st.sampled_from(SAMPLE_BYTES), mangled, two, st.binary(max_size=40)), max_size=40))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_kind_by_kind_reads_what_all_kinds_side_by_side_read(payloads: list[bytes]) -> None:
    expected = rows(payloads)
    found: list[dict[str, Any]] = [dict.fromkeys(wire.KINDS) for _ in payloads]
    for part in wire.whole_parts(pa.array(payloads, pa.binary())):
        for row, body, at_us in zip(part.rows, part.bodies.to_pylist(), part.append_time_us.to_pylist(), strict=True):
            found[row] |= {part.kind: body, "append_time_us": at_us}
    for one, other in zip(expected, found, strict=True):
        if all(one[kind] is None for kind in wire.KINDS):
            one.pop("append_time_us")
            other.pop("append_time_us", None)
        assert repr({name: one[name] for name in sorted(one)}) == repr({name: other[name] for name in sorted(other)})


def test_without_the_fast_reader_the_slow_one_gives_the_same_events(monkeypatch: pytest.MonkeyPatch) -> None:
    raws = [Raw("decisions", 0, offset, payload) for offset, payload in enumerate([*SAMPLE_BYTES, b"\xff\xff", b"x"])]
    fast = decode(raws)
    wire._reader.cache_clear()
    monkeypatch.setattr(wire, "_ptars", lambda: None)
    slow = decode(raws)
    wire._reader.cache_clear()
    assert slow.equals(fast) and slow.schema == fast.schema


def test_a_kind_that_lies_together_is_read_as_one_that_lies_apart() -> None:
    kinds = [[one.SerializeToString() for one in kind] for kind in ([decision(1), decision(2)], [impression(), impression(seen=[])])]
    together, apart = decode([Raw("t", 0, 0, payload) for payload in [*kinds[0], *kinds[1]]]), [kinds[at % 2][at // 2] for at in range(4)]
    assert together.equals(decode([Raw("t", 0, 0, payload) for payload in apart])) and together["fault"].null_count() == 4


def test_an_arrow_batch_and_a_registrys_header_hold_the_same_events() -> None:
    plain = decode([Raw("rewards", 3, 7, payload) for payload in SAMPLE_BYTES])
    assert decode([Raw("rewards", 3, 7, pack(SAMPLE_BYTES))]).equals(plain)
    headers = [b"\x00\x00\x00\x00\x2a\x00", b"\x00\x00\x00\x00\x2a\x04\x02\x06"]
    for header in headers:
        assert decode([Raw("rewards", 3, 7, header + payload) for payload in SAMPLE_BYTES]).equals(plain)


@given(data=st.binary(max_size=60))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_looks_like_a_header_and_is_none_is_one_undecodable_event(data: bytes) -> None:
    for start in (b"\x00", b"\xff\xff\xff\xff"):
        assert decode([Raw("rewards", 0, 0, start + data)]).height == 1


def test_a_field_that_a_newer_producer_sends_is_kept_and_a_change_of_type_is_undecodable() -> None:
    newer = impression().SerializeToString() + b"\x7a\x03new"
    events = decode([Raw("impressions", 0, 0, newer), Raw("impressions", 0, 1, b"\x12\x02\x0a\x05")])
    assert events["fault"].to_list() == [None, "undecodable"] and events["payload"][0] == newer


def test_golden_bytes_for_other_languages() -> None:
    event = Event(
        impression=Impression(event_id="e1", task="news", decision_id=bytes(range(16)), unit_id="u1", event_time_us=1_700_000_000_000_000)
    )
    event.impression.seen.add(slot=1, action="b")
    golden = "12300a0265311a046e6577732210000102030405060708090a0b0c0d0e0f2a027531308080f9c0c1c482033a050801120162"
    assert event.SerializeToString(deterministic=True).hex() == golden
    # Numbers of Apache Kafka's own test of its partitioner (org.apache.kafka.common.utils.UtilsTest, testMurmur2).
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    for key, number in known.items():
        assert murmur2(key) == number % 2**32
    assert partition_of("foobar", 4) == (known[b"foobar"] & 0x7FFFFFFF) % 4
    assert event_id("a", 1) == event_id("a", "1") != event_id("a1")
