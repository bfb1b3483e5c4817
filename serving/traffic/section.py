"""The section `traffic` of a task's file. Without it the champion, or a staged challenger, takes all of the traffic."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pydantic

from bandits.traffic import CHAMPION_ARM
from protos import config

__all__ = ["HOLDOUT_ARM", "SEGMENTS", "Arm", "Experiment", "Holdout", "Shadow", "Source", "Traffic", "arm_name"]

#: Segments of a namespace: an experiment has a range of them.
SEGMENTS = 10_000
HOLDOUT_ARM = "holdout"
_NAME = re.compile(r"[\w-]{1,40}", re.ASCII)
_DIGEST = r"^([0-9a-f]{64})?$"


class Source(config.StrictModel):
    """What decides: one of the three, and where none is given, whatever the champion is."""

    #: `champion` or `baseline`, whichever snapshot that is.
    serves: Literal["champion", "baseline"] = "champion"
    #: Digest of a snapshot in the store, 64 hex digits.
    snapshot: str = pydantic.Field(default="", pattern=_DIGEST)
    #: A policy on its prior, in the keys of the section `policy` that it changes: `{name: uniform}`.
    policy: dict[str, Any] | None = None

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> "Source":
        if sum((self.serves == "baseline", bool(self.snapshot), self.policy is not None)) > 1:
            raise ValueError("`serves`, `snapshot` and `policy` stand side by side; give one of them")
        return self


class Arm(Source):
    """An arm of an experiment."""

    #: Share of the experiment's units, in [0, 1]: where it begins. `AdminService.SetTraffic` moves it, and so does another number here.
    share: float = pydantic.Field(ge=0.0, le=1.0)


class Experiment(config.StrictModel):
    """Units of some segments, dealt to arms by a hash of their own salt."""

    #: Salt of the deal, `SALT.arm` in PlanOut's terms; empty = the experiment's name. Another salt deals anew.
    salt: str = ""
    #: [begin, end) of the namespace's segments, in 0..10,000. Experiments of a namespace share none.
    segments: tuple[int, int] = (0, SEGMENTS)
    #: Who takes part, as a condition on the context's features: `country in ("de", "fr") and age >= 18`. Empty = everyone.
    target: str = pydantic.Field(default="", max_length=1_000)
    #: The arms by name. What their shares leave over stays with the champion.
    arms: dict[str, Arm]

    @pydantic.model_validator(mode="after")
    def _is_sound(self) -> "Experiment":
        _check_names("arms", self.arms)
        begin, end = self.segments
        if not 0 <= begin < end <= SEGMENTS:
            raise ValueError(f"segments = {list(self.segments)}: give [begin, end) with 0 <= begin < end <= {SEGMENTS}")
        if sum(arm.share for arm in self.arms.values()) > 1 + 1e-9:
            raise ValueError("arms: the shares add up to more than 1; lower one")
        return self


class Holdout(config.StrictModel):
    """Units that no experiment and no challenger ever decides for: the baseline does, in the arm `holdout`."""

    #: Their share, in (0, 0.5].
    share: float = pydantic.Field(gt=0.0, le=0.5)
    #: Tasks with one salt and share hold the same units out: a global holdout.
    salt: str = pydantic.Field(default="holdout", min_length=1)


class Shadow(Source):
    """A policy that is scored and logged beside the one that decides, and never shown."""

    #: Share of the units that it is scored for, in (0, 1].
    share: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)


class Traffic(config.StrictModel):
    """The section `traffic` of a task's file."""

    #: A unit is in one segment of a namespace, by `NAMESPACE.segment` in PlanOut's terms; so tasks that name the same one, and give their
    #: experiments other segments, never have one unit in two experiments. Empty = the task's own.
    namespace: str = ""
    holdout: Holdout | None = None
    #: The experiments by name.
    experiments: dict[str, Experiment] = pydantic.Field(default_factory=dict)
    #: Unit -> arm (`EXPERIMENT/ARM`, `champion` or `holdout`), for those who try an arm out: logged as override, out of every comparison.
    overrides: dict[str, str] = pydantic.Field(default_factory=dict)
    #: Context feature, a category, that takes the arm's name, whatever the request says; empty = none.
    arm_feature: str = ""
    #: Policies that are scored beside the one that decides, by name.
    shadows: dict[str, Shadow] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _is_sound(self) -> "Traffic":
        _check_names("experiments", self.experiments)
        _check_names("shadows", self.shadows)
        known = {CHAMPION_ARM, *(name for name, _ in self.arms())} | ({HOLDOUT_ARM} if self.holdout else set())
        for arm in self.overrides.values():
            if arm not in known:
                raise ValueError(f"overrides: {arm!r} is no arm; {config.nearest(arm, known)}")
        spans = sorted((found.segments, name) for name, found in self.experiments.items())
        for ((_, end), one), ((begin, _), other) in itertools.pairwise(spans):
            if begin < end:
                raise ValueError(f"experiments: {one} and {other} share segments; a unit would be in both")
        return self

    def arms(self) -> Iterator[tuple[str, Arm]]:
        """Every arm by its full name."""
        for experiment, found in self.experiments.items():
            for name, arm in found.arms.items():
                yield arm_name(experiment, name), arm

    @property
    def deals(self) -> bool:
        """Is anyone dealt into another arm than the champion's?"""
        return bool(self.experiments or self.holdout or self.overrides or self.arm_feature)


def arm_name(experiment: str, arm: str) -> str:
    """An arm as it is logged."""
    return f"{experiment}/{arm}"


def _check_names(key: str, names: Mapping[str, Any]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{key}: {name!r} is no name; give 1 to 40 letters, digits, '-' and '_'")
