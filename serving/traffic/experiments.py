"""The arm of a unit: override, holdout, experiments, in this order; what none of them takes is the champion's. Pure."""

import bisect
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bandits.allocation import ExperimentState, share_of
from bandits.planout import POINTS, point, segment, uniform
from bandits.traffic import CHAMPION_ARM
from protos.events_pb2 import ARM_SOURCE_OVERRIDE, ARM_SOURCE_STICKY, ARM_SOURCE_UNSPECIFIED, ArmSource
from serving.traffic.section import HOLDOUT_ARM, SEGMENTS, Traffic, arm_name
from serving.traffic.target import Target

__all__ = ["Experiments", "Placed"]


class Placed(NamedTuple):
    """Where a unit stands. `probability` of the arm in the draw that placed it, 1 where nothing was drawn; `ineligible_for`: experiments
    whose target the context is not."""

    arm: str
    probability: float
    source: "ArmSource.ValueType" = ARM_SOURCE_UNSPECIFIED
    ineligible_for: tuple[str, ...] = ()


class _Running(NamedTuple):
    """An experiment as it is asked: its arms lie behind each other from `starts` to `ends`."""

    name: str
    salt: str
    begin: int
    end: int
    target: Target | None
    starts: Sequence[int]
    ends: Sequence[int]
    names: Sequence[str]
    probabilities: Mapping[str, float]
    #: Of SEGMENTS * POINTS, what its arms hold.
    taken: int

    def arm_of(self, unit_id: str) -> str:
        at = point(self.salt, unit_id)
        place = bisect.bisect_right(self.starts, at) - 1
        return self.names[place] if place >= 0 and at < self.ends[place] else ""


class Experiments:
    """The experiments of a task as they stand. Immutable."""

    def __init__(
        self,
        section: Traffic,
        standing: Mapping[str, ExperimentState],
        *,
        task: str,
        targets: Mapping[str, Target],
        arms: Collection[str],
    ) -> None:
        """`standing`: the points of the arms; `targets`: those of the experiments that have one; `arms`: full names of those that can be
        served, the units of any other stay with the champion."""
        self._segment_salt = f"{section.namespace or task}.segment"
        self._holdout = section.holdout
        self._overrides = {unit: arm for unit, arm in section.overrides.items() if arm in (CHAMPION_ARM, HOLDOUT_ARM) or arm in arms}
        self._running = [
            _running(section, name, standing[name], targets.get(name), arms) for name in section.experiments if name in standing
        ]
        self._targeted = [found for found in self._running if found.target is not None]

    def place(self, unit_id: str, context: bytes, *, sticky_arm: str = "") -> Placed:
        """The arm of a unit in an encoded context. `sticky_arm`: the one that it had, kept while it is in that experiment."""
        override = self._overrides.get(unit_id)
        if override is not None:
            return Placed(override, 1.0, ARM_SOURCE_OVERRIDE)
        holdout = self._holdout
        if holdout is not None and uniform(holdout.salt, unit_id) < holdout.share:
            return Placed(HOLDOUT_ARM, holdout.share)
        ineligible = tuple([found.name for found in self._targeted if found.target is not None and not found.target(context)])
        left, at, own = SEGMENTS * POINTS, segment(self._segment_salt, unit_id, segments=SEGMENTS), None
        for found in self._running:
            if found.name in ineligible:
                continue
            left -= found.taken
            if found.begin <= at < found.end:
                own = found
        if own is not None and sticky_arm in own.probabilities:
            return Placed(sticky_arm, 1.0, ARM_SOURCE_STICKY, ineligible)
        arm = own.arm_of(unit_id) if own is not None else ""
        if own is None or not arm:
            return Placed(CHAMPION_ARM, left / (SEGMENTS * POINTS), ineligible_for=ineligible)
        return Placed(arm, own.probabilities[arm], ineligible_for=ineligible)


def _running(section: Traffic, name: str, state: ExperimentState, asks: Target | None, arms: Collection[str]) -> _Running:
    declared = section.experiments[name]
    begin, end = declared.segments
    served = {arm_name(name, arm): ranges for arm, ranges in state.ranges.items() if arm_name(name, arm) in arms}
    spans = sorted((start, stop, arm) for arm, ranges in served.items() for start, stop in ranges)
    return _Running(
        name=name,
        salt=f"{declared.salt or name}.arm",
        begin=begin,
        end=end,
        target=asks,
        starts=[start for start, _, _ in spans],
        ends=[stop for _, stop, _ in spans],
        names=[arm for _, _, arm in spans],
        probabilities={arm: share_of(ranges) * (end - begin) / SEGMENTS for arm, ranges in served.items()},
        taken=sum(stop - start for start, stop, _ in spans) * (end - begin),
    )
