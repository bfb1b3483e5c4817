"""Framing: whatever happens to the bytes, sound records are read, damage is named by position, and nothing is misread."""

import struct
import zlib

import hypothesis
import hypothesis.strategies as st
import pytest

from protos.errors import FramingError
from protos.framing import HEADER_BYTES, MAX_PAYLOAD_BYTES, TORN, Damage, Record, frame, next_start, records

# Payloads that look like frames, in part or whole, are the hard ones.
payloads = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.just(b"SLR1"),
    st.just(b"xSLR1\x05\0\0\0SLR1SLR1"),
    st.binary(min_size=1, max_size=20).map(lambda inner: b"SLR" + inner),
)
logs = st.lists(payloads, min_size=1, max_size=6)
several = hypothesis.settings(deadline=None, max_examples=200, derandomize=True)


def read(data: bytes, **options: int) -> list[Record | Damage]:
    return list(records(data, **options))


def found(data: bytes, *, whole: bool = True) -> list[bytes]:
    return [item.payload for item in records(data, whole=whole) if isinstance(item, Record)]


def boundaries(payloads: list[bytes]) -> list[int]:
    ends = [0]
    for payload in payloads:
        ends.append(ends[-1] + len(frame(payload)))
    return ends


def assert_every_byte_is_accounted_for(data: bytes) -> None:
    """Records and damage lie one behind the other, from the first byte to the last, and records are what they say."""
    at = 0
    for item in records(data, whole=True):
        assert item.start == at < item.end
        at = item.end
        assert isinstance(item, Damage) or data[item.start : item.end] == frame(item.payload)
    assert at == len(data)


def test_a_frame_is_mark_length_checksum_and_payload() -> None:
    length = struct.pack("<I", 3)
    assert frame(b"abc") == b"SLR1" + length + struct.pack("<I", zlib.crc32(length + b"abc")) + b"abc"
    assert len(frame(b"abc")) == HEADER_BYTES + 3


@pytest.mark.parametrize("size", [0, MAX_PAYLOAD_BYTES + 1])
def test_a_payload_of_no_or_too_many_bytes_is_refused(size: int) -> None:
    with pytest.raises(FramingError, match=f"{size} bytes"):
        frame(bytes(size))


@several
@hypothesis.given(logs, st.integers(0, 1 << 40))
def test_what_was_framed_is_read_at_its_positions(written: list[bytes], base: int) -> None:
    data, ends = b"".join(map(frame, written)), boundaries(written)
    expected = [Record(payload, base + a, base + b) for payload, a, b in zip(written, ends[:-1], ends[1:], strict=True)]
    assert read(data, base=base) == read(data, base=base, whole=True) == expected


@several
@hypothesis.given(logs, st.data())
def test_a_flipped_bit_costs_its_record_only_and_is_found_exactly_there(written: list[bytes], data: st.DataObject) -> None:
    stream, ends = bytearray(b"".join(map(frame, written))), boundaries(written)
    position = data.draw(st.integers(0, len(stream) - 1))
    stream[position] ^= 1 << data.draw(st.integers(0, 7))
    hit = next(index for index, end in enumerate(ends[1:]) if position < end)
    items = read(bytes(stream), whole=True)
    assert [item.payload for item in items if isinstance(item, Record)] == written[:hit] + written[hit + 1 :]
    assert [(item.start, item.end) for item in items if isinstance(item, Damage)] == [(ends[hit], ends[hit + 1])]


@several
@hypothesis.given(logs, st.data())
def test_foreign_bytes_between_records_are_one_damage(written: list[bytes], data: st.DataObject) -> None:
    ends = boundaries(written)
    where = data.draw(st.integers(0, len(written)))
    foreign = data.draw(st.binary(min_size=1, max_size=30))
    hypothesis.assume(b"S" not in foreign)
    stream = b"".join(map(frame, written[:where])) + foreign + b"".join(map(frame, written[where:]))
    items = read(stream, whole=True)
    assert [item.payload for item in items if isinstance(item, Record)] == written
    assert [(i.start, i.end, i.reason) for i in items if isinstance(i, Damage)] == [
        (ends[where], ends[where] + len(foreign), "no record mark")
    ]


@several
@hypothesis.given(logs, st.data())
def test_cut_inserted_and_lost_bytes_leave_the_records_they_do_not_touch(written: list[bytes], data: st.DataObject) -> None:
    ends = boundaries(written)
    stream = b"".join(map(frame, written))
    start = data.draw(st.integers(0, len(stream)))
    stop = data.draw(st.integers(start, len(stream)))
    changed = stream[:start] + data.draw(st.binary(max_size=20)) + stream[stop:]
    untouched = [payload for payload, a, b in zip(written, ends[:-1], ends[1:], strict=True) if b <= start or a >= stop]
    got = iter(found(changed))
    assert all(any(payload == other for other in got) for payload in untouched), "an untouched record is missing"
    assert set(found(changed)) <= set(written), "a record was read that nobody wrote"
    assert_every_byte_is_accounted_for(changed)


@several
@hypothesis.given(st.binary(max_size=200))
def test_arbitrary_bytes_are_all_accounted_for(data: bytes) -> None:
    assert_every_byte_is_accounted_for(data)


@several
@hypothesis.given(logs, st.data())
def test_an_unfinished_tail_is_left_alone_and_a_torn_one_is_damage(written: list[bytes], data: st.DataObject) -> None:
    ends = boundaries(written)
    cut = data.draw(st.integers(ends[-2] + 1, ends[-1] - 1))
    stream = b"".join(map(frame, written))[:cut]
    assert [item.end for item in read(stream)] == ends[1:-1]
    torn = read(stream, whole=True)[-1]
    assert torn == Damage(TORN, ends[-2], cut)


def test_the_reasons_name_what_is_wrong() -> None:
    good, end = frame(b"good"), 16
    assert read(b"?" + good, whole=True)[0] == Damage("no record mark", 0, 1)
    assert read(good[:4] + b"\0\0\0\0" + good[8:], whole=True) == [Damage("impossible length", 0, end)]
    assert read(good[:4] + b"\xff\xff\xff\xff" + good[8:] + good, whole=True)[0] == Damage("impossible length", 0, end)
    assert read(good[:-1] + b"?" + good, whole=True)[0] == Damage("checksum mismatch", 0, end)
    assert read(good[:-1], whole=True) == [Damage(TORN, 0, end - 1)]
    assert read(good[:-1] + good, whole=True)[0] == Damage("checksum mismatch", 0, end - 1)


def test_damage_whose_end_is_not_known_yet_is_left_for_a_later_read() -> None:
    assert read(frame(b"a") + b"garbage") == [Record(b"a", 0, 13)]


def test_the_next_start_is_where_a_record_may_go_on_behind_the_data() -> None:
    data = b"??SLRx" + frame(b"whole") + frame(b"cut")[:-1]
    assert next_start(data, 0) == len(data) - len(frame(b"cut")) + 1
    assert next_start(b"??SLR", 1) == 2 and next_start(b"????", 0) == 4
