"""The files of a log: offsets count the bytes since the beginning, over segments, chunks, damage and collection."""

from pathlib import Path

import pytest

from protos import log_files
from protos.framing import TORN, Damage, Record, frame
from protos.log_files import Chunk, end_offset, read_log, segment_path, segments


def write(log: Path, base: int, data: bytes) -> int:
    """Writes a segment and returns the offset behind it."""
    log.mkdir(exist_ok=True)
    segment_path(log, base).write_bytes(data)
    return base + len(data)


def read_all(log: Path, *, offset: int = 0, max_bytes: int = 4 << 20) -> tuple[list[Record | Damage], int]:
    """Reads to the end as a follower does: chunk by chunk until nothing moves."""
    items: list[Record | Damage] = []
    while True:
        chunk = read_log(log, offset=offset, max_bytes=max_bytes)
        items += chunk.items
        if chunk.next_offset == offset:
            return items, offset
        offset = chunk.next_offset


def payloads(items: list[Record | Damage]) -> list[bytes]:
    return [item.payload for item in items if isinstance(item, Record)]


def test_a_log_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert segments(tmp_path / "none") == [] and end_offset(tmp_path / "none") == 0
    assert read_log(tmp_path / "none", offset=0) == Chunk([], 0)


def test_segments_are_named_by_their_base_and_sorted(tmp_path: Path) -> None:
    end = write(tmp_path, 0, frame(b"a"))
    write(tmp_path, end, frame(b"b"))
    (tmp_path / "notes.log").write_text("not a segment")
    assert [base for base, _ in segments(tmp_path)] == [0, 13]
    assert segments(tmp_path)[1][1].name == "00000000000000000013.log" and end_offset(tmp_path) == 26


@pytest.mark.parametrize("max_bytes", [1, 12, 13, 20, 4096])
def test_every_size_of_chunk_reads_the_same(tmp_path: Path, max_bytes: int) -> None:
    written = [bytes([65 + number]) * (number * 7 % 30 + 1) for number in range(20)]
    end = write(tmp_path, 0, b"".join(map(frame, written[:8])))
    end = write(tmp_path, end, b"".join(map(frame, written[8:9])))
    end = write(tmp_path, end, b"".join(map(frame, written[9:])))
    items, offset = read_all(tmp_path, max_bytes=max_bytes)
    assert payloads(items) == written and offset == end
    assert [item.end for item in items[:-1]] == [item.start for item in items[1:]]


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    end = write(tmp_path, 0, frame(b"a") + frame(b"b"))
    first = read_log(tmp_path, offset=0, max_bytes=13)
    assert payloads(first.items) == [b"a"] and first.next_offset == 13
    assert read_log(tmp_path, offset=end) == Chunk([], end)
    with segment_path(tmp_path, 0).open("ab") as file:
        file.write(frame(b"c"))
    assert payloads(read_log(tmp_path, offset=end).items) == [b"c"]


def test_an_unfinished_record_at_the_end_of_the_log_waits(tmp_path: Path) -> None:
    write(tmp_path, 0, frame(b"a") + frame(b"bb")[:-1])
    items, offset = read_all(tmp_path)
    assert payloads(items) == [b"a"] and offset == 13
    with segment_path(tmp_path, 0).open("ab") as file:
        file.write(b"b")
    assert payloads(read_all(tmp_path, offset=offset)[0]) == [b"bb"]


def test_a_torn_tail_in_an_older_segment_is_damage_at_its_place(tmp_path: Path) -> None:
    end = write(tmp_path, 0, frame(b"a") + frame(b"bb")[:-1])
    write(tmp_path, end, frame(b"c"))
    items, _ = read_all(tmp_path)
    assert items == [Record(b"a", 0, 13), Damage(TORN, 13, 26), Record(b"c", 26, 39)]


@pytest.mark.parametrize("max_bytes", [13, 4096])
def test_a_flipped_byte_is_skipped_and_what_follows_is_kept(tmp_path: Path, max_bytes: int) -> None:
    data = bytearray(frame(b"a") + frame(b"b") + frame(b"c"))
    data[20] ^= 4
    write(tmp_path, 0, bytes(data))
    items, offset = read_all(tmp_path, max_bytes=max_bytes)
    assert payloads(items) == [b"a", b"c"] and offset == 39
    assert [(item.start, item.end) for item in items if isinstance(item, Damage)] == [(13, 26)]


@pytest.mark.parametrize("max_bytes", [20, 40, 60, 4096])
def test_a_record_that_the_read_cuts_is_not_searched_for_others(tmp_path: Path, max_bytes: int) -> None:
    """A payload may hold a whole frame, by chance or on purpose: it is data, wherever a chunk ends."""
    outer = b"x" * 8 + frame(b"forged") + b"y" * 30
    write(tmp_path, 0, frame(b"a") + frame(outer) + frame(b"c"))
    items, _ = read_all(tmp_path, max_bytes=max_bytes)
    assert payloads(items) == [b"a", outer, b"c"] and not any(isinstance(item, Damage) for item in items)


def test_collected_segments_are_passed_over(tmp_path: Path) -> None:
    second = write(tmp_path, 0, frame(b"a") + frame(b"b"))
    third = write(tmp_path, second, frame(b"c"))
    end = write(tmp_path, third, frame(b"d"))
    segment_path(tmp_path, 0).unlink()
    for offset in (0, 13, 25, second):
        assert payloads(read_all(tmp_path, offset=offset)[0]) == [b"c", b"d"]
    segment_path(tmp_path, second).unlink()
    assert payloads(read_all(tmp_path, offset=second)[0]) == [b"d"]
    assert read_log(tmp_path, offset=end + 5) == Chunk([], end + 5)


def test_damage_longer_than_any_record_hides_no_record_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is lowered to 100 bytes a frame: a record that begins just before a read ends is still read."""
    monkeypatch.setattr(log_files, "MAX_PAYLOAD_BYTES", 88)
    for garbage in range(90, 110):
        write(tmp_path, 0, b"?" * garbage + frame(b"behind") + frame(b"next"))
        items, offset = read_all(tmp_path, max_bytes=50)
        assert payloads(items) == [b"behind", b"next"] and offset == garbage + 18 + 16
        damage = [item for item in items if isinstance(item, Damage)]
        assert damage[0].start == 0 and damage[-1].end == garbage
