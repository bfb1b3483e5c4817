"""A backlog in the order of its time: nothing lost, no partition out of order, nobody held back by what will not come."""

import math
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.fetch_bounds import FetchBounds, Room, Size
from attribution.pieces import Piece
from attribution.read_ahead import GRAIN_MS, ReadAhead
from attribution.sources import Partition

DECISIONS, REWARDS, SIGNALS = (Partition(topic, 0) for topic in ("decisions", "rewards", "signals"))
MINUTE = 60_000


def piece(partition: Partition, times_ms: Sequence[int], *, first: int = 0, size: int = 1) -> Piece:
    count = len(times_ms)
    ones = np.ones(count, dtype=np.int64)
    return Piece(partition, np.arange(first, first + count), np.array(times_ms), [b"x" * size] * count, ones, ones * size)


def room(records: int = 1_000) -> Room:
    return Room(FetchBounds(records=records), largest=Size(1, 1))


def ahead_of(*pieces: Piece, partitions: Sequence[Partition] = (DECISIONS, REWARDS)) -> ReadAhead:
    ahead = ReadAhead()
    ahead.follow(partitions)
    for one in pieces:
        ahead.add(one)
    return ahead


def times(pieces: Sequence[Piece], partition: Partition) -> list[int]:
    return [time for one in pieces if one.partition == partition for time in one.times_ms.tolist()]


def never(_: Partition) -> bool:
    return False


def test_what_is_ahead_waits_until_the_slowest_has_come_as_far() -> None:
    ahead = ahead_of(piece(REWARDS, [1, 50, 100, 200]), piece(DECISIONS, [0, 10, 60]))
    first = ahead.due(room(), at_end=never)
    assert (times(first, DECISIONS), times(first, REWARDS)) == ([0, 10, 60], [1, 50])
    ahead.add(piece(DECISIONS, [70, 150], first=3))
    then = ahead.due(room(), at_end=never)
    assert (times(then, DECISIONS), times(then, REWARDS)) == ([70, 150], [100])
    assert times(ahead.due(room(), at_end=never, slack_ms=50.0), REWARDS) == [200]


def test_one_of_which_nothing_was_read_holds_the_others_back_until_it_is_known_to_be_at_its_end() -> None:
    ahead = ahead_of(piece(REWARDS, [1]), piece(DECISIONS, [0]), partitions=(DECISIONS, REWARDS, SIGNALS))
    assert not ahead.due(room(), at_end=never)
    assert len(ahead.due(room(), at_end=lambda partition: partition == SIGNALS)) == 1, "the decisions; rewards wait for theirs"
    assert times(ahead.due(room(), at_end=lambda _: True), REWARDS) == [1]


def test_with_no_end_to_the_slack_nothing_stays() -> None:
    ahead = ahead_of(piece(REWARDS, [5 * MINUTE, 9 * MINUTE]), partitions=(DECISIONS, REWARDS, SIGNALS))
    assert times(ahead.due(room(), at_end=never, slack_ms=math.inf), REWARDS) == [5 * MINUTE, 9 * MINUTE]
    assert not ahead.due(room(), at_end=lambda _: True)


def test_a_large_piece_is_cut_where_the_next_partition_begins() -> None:
    """Messages of many events are few: one chunk of them may be all that a fetch has room for."""
    late = piece(DECISIONS, [MINUTE * number for number in range(10)])
    ahead = ahead_of(late, piece(REWARDS, [2 * MINUTE, 10 * MINUTE]))
    due = ahead.due(room(7), at_end=never)
    assert times(due, DECISIONS) == [MINUTE * number for number in range(6)] and times(due, REWARDS) == [2 * MINUTE]


def test_what_does_not_fit_comes_next() -> None:
    ahead = ahead_of(piece(DECISIONS, [0, 1, 2, 3]), piece(REWARDS, [4]))
    fetches = [ahead.due(room(3), at_end=lambda _: True) for _ in range(3)]
    assert [(times(due, DECISIONS), times(due, REWARDS)) for due in fetches] == [([0, 1, 2], []), ([3], [4]), ([], [])]


def test_shares_say_what_is_far_ahead_and_what_is_near_again() -> None:
    ahead = ahead_of(piece(REWARDS, [1, 2, 3], size=30), piece(DECISIONS, [0], size=5))
    assert not ahead.far(100) and ahead.far(95) == {REWARDS}, "beside 5 bytes of decisions"
    assert ahead.near(100) == {DECISIONS} and not ahead.near(39)
    assert ahead.slowest(never) == DECISIONS and ahead.slowest(lambda partition: partition == DECISIONS) == REWARDS
    ahead.follow([REWARDS])
    assert not ahead.far(1) and ahead.near(1) == {REWARDS} and ahead.slowest(lambda _: True) is None, "begun anew"


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_every_record_comes_once_and_in_its_partitions_order_whatever_clocks_say(data: st.DataObject) -> None:
    partitions = [DECISIONS, REWARDS, SIGNALS]
    ahead, sent, read = ahead_of(partitions=partitions), dict.fromkeys(partitions, 0), dict[Partition, list[int]]()
    clock = st.integers(0, 5 * MINUTE)
    for _ in range(data.draw(st.integers(1, 12))):
        if data.draw(st.booleans()):
            partition, stamps = data.draw(st.sampled_from(partitions)), data.draw(st.lists(clock, min_size=1, max_size=6))
            ahead.add(piece(partition, stamps, first=sent[partition]))
            sent[partition] += len(stamps)
        ended = data.draw(st.sets(st.sampled_from(partitions)))
        for one in ahead.due(room(data.draw(st.integers(1, 6))), at_end=ended.__contains__):
            read.setdefault(one.partition, []).extend(one.offsets.tolist())
    for _ in range(80):
        for one in ahead.due(room(2), at_end=never, slack_ms=math.inf):
            read.setdefault(one.partition, []).extend(one.offsets.tolist())
    assert read == {partition: list(range(count)) for partition, count in sent.items() if count}


def test_a_grain_is_a_minute() -> None:
    assert GRAIN_MS == MINUTE
