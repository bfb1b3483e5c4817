"""Arms on points: growing moves nobody who need not move, and the store keeps what stands, with an account of each move."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandits.allocation import CHAMPION, Allocation, ExperimentState, TrafficState, moved, share_of
from bandits.errors import StoreError, TrafficMoved, TrafficRefused, UnknownSnapshot
from bandits.planout import POINTS, point
from bandits.store import Store


def arm_of(allocation: Allocation, at: int) -> str:
    found = [arm for arm, ranges in allocation.items() if any(begin <= at < end for begin, end in ranges)]
    assert len(found) <= 1
    return found[0] if found else ""


def test_an_arm_that_grows_from_10_to_20_percent_moves_no_assigned_unit() -> None:
    before = moved({}, {"new": 0.1, "other": 0.3})
    after = moved(before, {"new": 0.2, "other": 0.3})
    arms = [(arm_of(before, at), arm_of(after, at)) for at in (point("s.arm", f"u{number}") for number in range(20_000))]
    assert [pair for pair in arms if pair[0] and pair[0] != pair[1]] == []
    assert {pair for pair in arms if pair[0] != pair[1]} == {("", "new")}


def test_a_control_that_pays_for_growth_loses_only_what_the_other_gains() -> None:
    before = moved({}, {"control": 0.9, "new": 0.1})
    after = moved(before, {"control": 0.8, "new": 0.2})
    assert before == {"control": ((0, 900_000),), "new": ((900_000, POINTS),)}
    assert after == {"control": ((0, 800_000),), "new": ((800_000, POINTS),)}


SHARES = st.lists(st.integers(0, 100), min_size=3, max_size=3).map(
    lambda parts: dict(zip("abc", (part / max(sum(parts), 100) for part in parts), strict=True))
)


@given(SHARES, SHARES)
def test_a_move_moves_as_few_points_as_any_could(first: dict[str, float], second: dict[str, float]) -> None:
    before = moved({}, first)
    after = moved(before, second)
    for arm in "abc":
        assert share_of(after[arm]) == pytest.approx(second[arm], abs=1.1e-6)
        kept = sum(max(min(e, f) - max(b, c), 0) for b, e in before[arm] for c, f in after[arm])
        assert kept == min(sum(e - b for b, e in before[arm]), sum(e - b for b, e in after[arm]))
    taken = sorted(part for ranges in after.values() for part in ranges)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(taken))


@pytest.mark.parametrize("shares", [{"a": 0.6, "b": 0.6}, {"a": -0.1}, {"a": 1.1}, {"a": float("nan")}], ids=str)
def test_shares_that_no_allocation_has_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(TrafficRefused, match="shares"):
        moved({}, shares)


def state_of(serves: str) -> TrafficState:
    return TrafficState(experiments={"e": ExperimentState(moved({}, {"a": 0.5}), {"a": serves}, {"a": 0.5})})


def test_the_store_moves_traffic_by_compare_and_swap_and_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path, "shop")
    assert store.traffic() == TrafficState()
    one = store.move_traffic(lambda _: state_of(CHAMPION), expected=0, now_us=5, actor="ann", reason="begin")
    assert (one.generation, one.moved_us, store.traffic()) == (1, 5, one)
    assert store.move_traffic(lambda standing: standing, expected=None, now_us=6, actor="ann", reason="nothing") == one
    with pytest.raises(TrafficMoved, match="0 was read, 1 stands"):
        store.move_traffic(lambda _: TrafficState(), expected=0, now_us=7, actor="bob", reason="late")
    with pytest.raises(UnknownSnapshot):
        store.move_traffic(lambda _: state_of("0" * 64), expected=1, now_us=7, actor="bob", reason="gone")
    (entry,) = store.audit()
    assert (entry["action"], entry["actor"], entry["reason"], entry["generation"]) == ("traffic", "ann", "begin", 1)


def test_a_traffic_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "traffic.json").write_text('{"generation": 1}')
    with pytest.raises(StoreError, match=r"traffic\.json"):
        Store(tmp_path, "shop").traffic()
