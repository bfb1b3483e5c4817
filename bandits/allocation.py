"""Which points of an experiment fall to which arm, and how they move when shares do: only those that must. Pure.

A unit is a point; an arm holds ranges of points. An arm that shrinks gives its last points back, one that grows takes the first that are
free. So a unit leaves its arm only where that arm shrinks, and no unit moves between two arms that grow.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bandits.errors import TrafficRefused
from bandits.planout import POINTS

__all__ = ["BASELINE", "CHAMPION", "Allocation", "ExperimentState", "Ranges", "TrafficState", "moved", "share_of"]

# [begin, end) of points, ascending and disjoint.
Ranges = tuple[tuple[int, int], ...]
Allocation = Mapping[str, Ranges]
#: What an arm serves in place of a snapshot of its own: whatever the task's champion, or its baseline, is.
CHAMPION, BASELINE = "champion", "baseline"
# Below what a share can be wrong by, and above what decimal fractions lack in float64.
_ROUNDING = 1e-6


class ExperimentState(NamedTuple):
    """An experiment of a task: the points of its arms, what each serves (a digest, CHAMPION or BASELINE), and the shares that the task's
    file declared when it was last followed."""

    ranges: Allocation
    serves: Mapping[str, str]
    declared: Mapping[str, float]


class TrafficState(NamedTuple):
    """The experiments of a task by name; `generation` counts the moves."""

    generation: int = 0
    moved_us: int = 0
    experiments: Mapping[str, ExperimentState] = {}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "TrafficState":
        """As it stands in a file. Raises TypeError, ValueError, KeyError for anything else."""
        experiments = {
            str(name): ExperimentState(
                {arm: tuple((int(begin), int(end)) for begin, end in ranges) for arm, ranges in found["ranges"].items()},
                dict(found["serves"]),
                dict(found["declared"]),
            )
            for name, found in data["experiments"].items()
        }
        return cls(int(data["generation"]), int(data["moved_us"]), experiments)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {**self._asdict(), "experiments": {name: found._asdict() for name, found in self.experiments.items()}}

    @property
    def digests(self) -> set[str]:
        """Snapshots that an arm serves."""
        return {served for found in self.experiments.values() for served in found.serves.values()} - {CHAMPION, BASELINE}


def share_of(ranges: Ranges) -> float:
    """The share of all points that these ranges hold."""
    return sum(end - begin for begin, end in ranges) / POINTS


def moved(standing: Allocation, shares: Mapping[str, float]) -> dict[str, Ranges]:
    """The allocation with these shares, each in [0, 1] and at most 1 together; an arm that is not named holds nothing.

    From nothing, arms lie behind each other in the order of `shares`. Raises TrafficRefused.
    """
    for arm, share in shares.items():
        if not 0 <= share <= 1:
            raise TrafficRefused(f"shares.{arm}: {share!r} is refused; give a share in [0, 1]")
    if sum(shares.values()) > 1 + _ROUNDING:
        raise TrafficRefused(f"shares: add up to {sum(shares.values()):g}; give at most 1 together")
    wanted = {arm: math.floor(share * POINTS + _ROUNDING) for arm, share in shares.items()}
    after = {arm: _first(standing.get(arm, ()), count) for arm, count in wanted.items()}
    for arm, count in wanted.items():
        lacking = count - _size(after[arm])
        after[arm] = _joined((*after[arm], *_first(_free(after.values()), lacking)))
    return after


def _size(ranges: Ranges) -> int:
    return sum(end - begin for begin, end in ranges)


def _first(ranges: Ranges, count: int) -> Ranges:
    """The first `count` points, or all."""
    found: list[tuple[int, int]] = []
    for begin, end in ranges:
        if count <= 0:
            break
        found.append((begin, min(end, begin + count)))
        count -= end - begin
    return tuple(found)


def _free(taken: Iterable[Ranges]) -> Ranges:
    found, at = [], 0
    for begin, end in sorted(part for ranges in taken for part in ranges):
        if begin > at:
            found.append((at, begin))
        at = end
    return (*found, (at, POINTS)) if at < POINTS else tuple(found)


def _joined(ranges: Ranges) -> Ranges:
    found: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if found and found[-1][1] == begin:
            begin = found.pop()[0]
        found.append((begin, end))
    return tuple(found)
