"""The log's writer against the disk itself: torn tails, full disks, two writers, segments, time."""

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from protos.events_pb2 import Decision, Event, Heartbeat, Reward
from protos.framing import Damage, Record, frame
from protos.log_files import end_offset, segments
from serving.decision_log import LogWriter, Stamp, stamp_append, stamp_decision
from serving.errors import LogBusy, LogUnavailable
from serving.heartbeats import Heartbeats
from serving.turns import InTurn
from tests.serving.kit import records_of


class Clock:
    """A clock that stands until it is set, microseconds."""

    def __init__(self) -> None:
        self.us = 1_000

    def __call__(self) -> int:
        return self.us


@contextmanager
def writer(log: Path, *, clock: Clock | None = None, stamp: Stamp = stamp_decision, segment_bytes: int = 1 << 20) -> Iterator[LogWriter]:
    found = LogWriter(log, stamp=stamp, now_us=clock or Clock(), segment_bytes=segment_bytes, sync_s=0.001)
    try:
        yield found
    finally:
        found.close()


def decision(name: str) -> Event:
    return Event(decision=Decision(request_id=name))


def names(log: Path) -> list[str]:
    return [Event.FromString(item.payload).decision.request_id for item in records_of(log) if isinstance(item, Record)]


def damage(log: Path) -> list[Damage]:
    return [item for item in records_of(log) if isinstance(item, Damage)]


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond a size: what a full disk looks like to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_appended_is_read_in_order_with_its_times(tmp_path: Path) -> None:
    clock = Clock()
    with writer(tmp_path, clock=clock) as log:
        log.append([decision("a"), decision("b")])
        clock.us = 2_000
        end = log.append([decision("c")])
    events = [Event.FromString(item.payload) for item in records_of(tmp_path)]
    assert [event.decision.request_id for event in events] == ["a", "b", "c"]
    assert [event.append_time_us for event in events] == [event.decision.event_time_us for event in events] == [1_000, 1_000, 2_000]
    assert end == end_offset(tmp_path)


def test_feedback_keeps_the_time_of_its_producer(tmp_path: Path) -> None:
    with writer(tmp_path, stamp=stamp_append) as log:
        log.append([Event(reward=Reward(event_time_us=5))])
    event = Event.FromString(records_of(tmp_path)[0].payload)
    assert (event.reward.event_time_us, event.append_time_us) == (5, 1_000)


def test_time_never_decreases_even_where_the_clock_steps_back_or_the_process_starts_again(tmp_path: Path) -> None:
    clock = Clock()
    with writer(tmp_path, clock=clock) as log:
        log.append([decision("a")])
        clock.us = 10
        log.append([decision("b")])
    with writer(tmp_path, clock=clock) as log:
        assert log.last_us == 1_000
        log.append([Event(heartbeat=Heartbeat(source="decisions"))])
    times = [Event.FromString(item.payload).append_time_us for item in records_of(tmp_path)]
    assert times == [1_000, 1_000, 1_000]


def test_segments_rotate_by_size_and_offsets_run_on(tmp_path: Path) -> None:
    wanted = [f"{number:04d}" for number in range(500)]
    with writer(tmp_path, segment_bytes=4096) as log:
        for name in wanted:
            log.append([decision(name)])
    assert len(segments(tmp_path)) > 3 and names(tmp_path) == wanted and not damage(tmp_path)
    assert all(one + path.stat().st_size == two for (one, path), (two, _) in pairwise(segments(tmp_path)))


def test_nobody_waits_for_the_name_of_a_new_segment_to_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, synced, real = threading.Event(), list[str](), os.fsync

    def slow(descriptor: int) -> None:
        assert free.wait(30)
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    with writer(tmp_path, segment_bytes=4096) as log:
        for number in range(500):
            log.append([decision(f"{number:04d}")])
        assert len(segments(tmp_path)) > 3 and synced == []
        free.set()
    assert set(synced) == {str(tmp_path)}


def test_a_name_that_does_not_reach_the_disk_is_told_as_a_record_that_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with writer(tmp_path) as log:
        with monkeypatch.context() as broken, pytest.raises(LogUnavailable, match="could not be synced"):
            broken.setattr(os, "fsync", failing)
            for number in range(100_000):
                log.append([decision(str(number))])
        log.append([decision("after")])
    assert names(tmp_path)[-1] == "after"


@pytest.mark.parametrize("kept", range(1, 26, 4))
def test_a_torn_tail_is_left_and_named_and_nothing_behind_it_is_lost(tmp_path: Path, kept: int) -> None:
    with writer(tmp_path) as log:
        whole = log.append([decision("whole")])
        log.append([decision("torn")])
    path = segments(tmp_path)[-1][1]
    os.truncate(path, whole + kept)
    with writer(tmp_path) as log:
        log.append([decision("after")])
    assert names(tmp_path) == ["whole", "after"]
    assert [(item.reason, item.start, item.end) for item in damage(tmp_path)] == [("torn record", whole, whole + kept)]


def test_a_flipped_byte_is_skipped_counted_and_named(tmp_path: Path) -> None:
    with writer(tmp_path) as log:
        ends = [log.append([decision(name)]) for name in "abc"]
    path = segments(tmp_path)[0][1]
    data = bytearray(path.read_bytes())
    data[ends[0] + 14] ^= 1
    path.write_bytes(data)
    assert names(tmp_path) == ["a", "c"]
    assert [(item.reason, item.start, item.end) for item in damage(tmp_path)] == [("checksum mismatch", ends[0], ends[1])]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with writer(tmp_path), pytest.raises(LogBusy, match="another process"), writer(tmp_path):
        pass
    with writer(tmp_path):
        pass


def test_a_full_disk_refuses_the_record_and_the_log_goes_on_when_there_is_space(tmp_path: Path) -> None:
    with writer(tmp_path) as log:
        log.append([decision("before")])
        with files_limited_to(0):
            for _ in range(3):
                with pytest.raises(LogUnavailable, match=r"free disk space|no segment"):
                    log.append([decision("refused")])
        log.append([decision("after")])
    assert names(tmp_path) == ["before", "after"] and not damage(tmp_path)


def test_a_write_that_stops_half_way_is_refused_and_named(tmp_path: Path) -> None:
    with writer(tmp_path) as log:
        whole = log.append([decision("before")])
        with files_limited_to(whole + 7), pytest.raises(LogUnavailable, match="took 7 of"):
            log.append([decision("half")])
        log.append([decision("after")])
    assert names(tmp_path) == ["before", "after"]
    assert [(item.reason, item.start, item.end) for item in damage(tmp_path)] == [("torn record", whole, whole + 7)]


def test_a_directory_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogUnavailable, match="file/log"), writer(tmp_path / "file" / "log"):
        pass


def test_an_idle_log_beats_and_a_busy_one_does_not(tmp_path: Path) -> None:
    clock = Clock()
    with writer(tmp_path, clock=clock) as log:
        beats = Heartbeats(log, every_s=3600.0, now_us=clock)
        clock.us = 10**10
        log.append([decision("a")])
        beats.beat()
        clock.us = 2 * 10**10
        beats.beat()
        with files_limited_to(0):
            clock.us = 3 * 10**10
            beats.beat()
        beats.close()
    kinds = [Event.FromString(item.payload).WhichOneof("kind") for item in records_of(tmp_path)]
    assert kinds == ["decision", "heartbeat"]


@contextmanager
def writers_in_turn(log: Path, count: int, **settings: Any) -> Iterator[list[LogWriter]]:
    """Writers as so many worker processes have them: the locks are of open files, not of processes."""
    given: dict[str, Any] = {"stamp": stamp_decision, "now_us": Clock(), "segment_bytes": 1 << 20, "sync_s": 0.001, **settings}
    found = [LogWriter(log, turns=InTurn, **given) for _ in range(count)]
    try:
        yield found
    finally:
        for one in found:
            one.close()


def test_writers_in_turn_lose_nothing_and_leave_one_log(tmp_path: Path) -> None:
    with writers_in_turn(tmp_path, 4, segment_bytes=4096) as logs:

        def write(number: int) -> None:
            for count in range(200):
                logs[number].append([decision(f"{number}-{count:03d}"), decision(f"{number}-{count:03d}+")])

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = names(tmp_path)
    assert sorted(found) == sorted(f"{number}-{count:03d}{end}" for number in range(4) for count in range(200) for end in ("", "+"))
    assert all([name for name in found if name[0] == one] == sorted(name for name in found if name[0] == one) for one in "0123")
    assert all(two == f"{one}+" for one, two in zip(found[::2], found[1::2], strict=True))
    assert len(segments(tmp_path)) > 10 and not damage(tmp_path)
    assert all(one + path.stat().st_size == two for (one, path), (two, _) in pairwise(segments(tmp_path)))


def test_time_never_decreases_from_one_writer_to_the_next(tmp_path: Path) -> None:
    clock = Clock()
    with writers_in_turn(tmp_path, 2, now_us=clock) as (one, other):
        one.append([decision("a")])
        clock.us = 10
        other.append([decision("b")])
        assert one.last_us == other.last_us == 1_000
    assert [Event.FromString(item.payload).append_time_us for item in records_of(tmp_path)] == [1_000, 1_000]


def test_a_write_that_stops_half_way_closes_the_segment_for_every_writer(tmp_path: Path) -> None:
    with writers_in_turn(tmp_path, 2) as (one, other):
        whole = one.append([decision("before")])
        other.append([decision("and")])
        end = end_offset(tmp_path)
        with files_limited_to(end + 7), pytest.raises(LogUnavailable, match="took 7 of"):
            one.append([decision("half")])
        other.append([decision("after")])
        one.append([decision("last")])
    assert names(tmp_path) == ["before", "and", "after", "last"] and whole < end
    assert [(item.reason, item.start, item.end) for item in damage(tmp_path)] == [("torn record", end, end + 7)]


def test_a_killed_writers_torn_record_is_passed_over_by_the_readers(tmp_path: Path) -> None:
    """What a kill within a write leaves: nobody closed the segment, and the others write on behind the torn record."""
    with writers_in_turn(tmp_path, 2) as (one, other):
        one.append([decision("before")])
        path = segments(tmp_path)[-1][1]
        with path.open("ab") as file:
            file.write(frame(decision("torn").SerializeToString())[:-3])
        for number in range(20):
            other.append([decision(f"after {number}")])
    assert names(tmp_path) == ["before", *[f"after {number}" for number in range(20)]] and len(damage(tmp_path)) == 1


def test_one_who_writes_alone_and_those_in_turn_refuse_each_other(tmp_path: Path) -> None:
    with writer(tmp_path), pytest.raises(LogBusy, match="another process"), writers_in_turn(tmp_path, 1):
        pass
    with writers_in_turn(tmp_path, 1), pytest.raises(LogBusy, match="another process"), writer(tmp_path):
        pass
