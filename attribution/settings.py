"""The sections `rewards` and `attribution` of a task's YAML, and the tables of numbers that the join makes of them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from protos import config
from protos.config import StrictModel
from protos.task import TaskFile, load_tasks

__all__ = ["AGGREGATES", "Attribution", "JoinConfig", "Outcome", "Rewards", "TaskJoin", "config_parts", "load_join_config", "task_join"]

AGGREGATES = ("first", "last", "sum", "max", "mean", "count")
# A window longer than 400 days is a unit mistaken (milliseconds, say), not a window.
_LONGEST_S = 400 * 86_400.0
Seconds = Annotated[float, Field(ge=0.0, le=_LONGEST_S)]
Window = Annotated[float, Field(gt=0.0, le=_LONGEST_S)]
OutcomeName = Annotated[str, Field(min_length=1, max_length=128)]


class Outcome(StrictModel):
    """One named outcome: which reward events count for a decision, and what they are worth."""

    window_s: Window = Field(description="A reward counts when it happens less than this after its decision. Seconds, (0, 400 days].")
    anchor: Literal["decision", "impression"] = Field(
        "decision",
        description="Where the window begins: at the decision, or when the slot (for a slate, the first slot) was first seen; unseen "
        "slots then have no rewards, and the decision closes later by the impression window.",
    )
    aggregate: Literal["first", "last", "sum", "max", "mean", "count"] = Field(
        "sum", description="How several rewards of one slot (or slate) become one value; first and last by event time."
    )
    weight: float = Field(1.0, description="Factor of the outcome in the scalar reward. Any finite number; 0 = recorded, not rewarded.")
    default: float = Field(0.0, description="Value where the window closed without an event, in the outcome's own unit. Finite.")
    level: Literal["slot", "slate"] = Field(
        "slot",
        description="slot: the default stands for each slot that counts, and an event that names neither slot nor action is the slate's. "
        "slate: one value for the whole slate; slot and action of the event are not looked at.",
    )


class Rewards(StrictModel):
    """Section `rewards`: the named outcomes of the task."""

    outcomes: dict[OutcomeName, Outcome] = Field(
        min_length=1, description="Name of the outcome in reward events -> how it counts. At least one."
    )
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = Field(
        None, description="module:function of your own that makes the scalar reward of a decision, vectorised over Arrow columns."
    )


class Attribution(StrictModel):
    """Section `attribution`: impressions, lateness and what counts as shown."""

    impression_window_s: Window = Field(
        description="An impression counts when it happens less than this after its decision. Seconds, (0, 400 days]."
    )
    learn_from: Literal["treated", "all"] = Field(
        "treated", description="Slots that have a reward to learn from: treated = those that were seen; all = unseen ones too, as defaults."
    )
    max_slate_age_s: Window | None = Field(
        None,
        description="An impression of a slate older than this is quarantined (`slate_too_old`): a cache outlives it. Seconds.",
    )
    provisional_after_s: Window | None = Field(
        None, description="A provisional row is written this long after the decision, before the final one at its close. Seconds."
    )
    credit: Literal["last", "first", "linear", "position"] | None = Field(
        None,
        description="How a reward that names its unit and action, but no decision, is shared among the unit's decisions with this action "
        "in the outcome's window. Unset: such a reward is quarantined.",
    )
    grace_s: Seconds = Field(
        60.0,
        description="Disorder that is no lateness: between events of one source, and between the clocks of server and producers. Seconds.",
    )
    correction_horizon_s: Seconds = Field(
        86_400.0,
        description="How long after its close a decision takes late events, each a corrected revision; held in memory till then. Seconds.",
    )
    max_future_s: Seconds = Field(
        300.0, description="An event stamped this much later than the log took it is quarantined (`future`): its clock is wrong. Seconds."
    )


@dataclasses.dataclass(frozen=True)
class TaskJoin:
    """The join of one task: both sections, and their digest, which stands in every row."""

    tenant: str
    task: str
    rewards: Rewards
    attribution: Attribution
    digest: str


@dataclasses.dataclass(frozen=True)
class JoinConfig:
    """The joins of all tasks by (tenant, task). Times in the frames are microseconds."""

    tasks: Mapping[tuple[str, str], TaskJoin]

    @functools.cached_property
    def task_frame(self) -> pl.DataFrame:
        """One row a task: its windows and limits. `task_row` numbers the rows."""
        tasks = pl.DataFrame([_task_row(join) for join in self.tasks.values()], schema=_TASK_SCHEMA, orient="row")
        return tasks.with_row_index("task_row")

    @functools.cached_property
    def outcome_frame(self) -> pl.DataFrame:
        """One row an outcome, in the order of the file."""
        rows = [row for join in self.tasks.values() for row in _outcome_rows(join)]
        outcomes = pl.DataFrame(rows, schema=_OUTCOME_SCHEMA, orient="row")
        return outcomes.join(self.task_frame.select("tenant", "task", "task_row"), on=["tenant", "task"], maintain_order="left")

    @property
    def grace_us(self) -> int:
        """Disorder that the shared watermark allows for: the largest of the tasks'."""
        return _longest(self.task_frame["grace_us"])

    @property
    def max_future_us(self) -> int:
        """Bound on the stamp of what belongs to no task, such as a heartbeat: the largest of the tasks'."""
        return _longest(self.task_frame["max_future_us"])

    @property
    def memory_us(self) -> int:
        """How far behind the watermark an event can lie and still matter to the state."""
        return _longest(self.task_frame["window_us"] + self.task_frame["hold_us"])

    @functools.cached_property
    def shares(self) -> bool:
        """Does a task credit rewards that name no decision?"""
        return self.task_frame["credit_rule"].null_count() < self.task_frame.height

    @functools.cached_property
    def functions(self) -> Mapping[tuple[str, str], str]:
        """The users' own reward functions, by (tenant, task)."""
        return {key: join.rewards.function for key, join in self.tasks.items() if join.rewards.function}


def _longest(times_us: pl.Series) -> int:
    """The largest of some tasks' times, in Python's own numbers; there is always a task."""
    return max(times_us.to_list())


def load_join_config(directory: Path, *, overrides: Sequence[str] = ()) -> JoinConfig:
    """The joins of every task file in a directory; `overrides` (`section.key=value`) are laid over each.

    Raises ConfigError with a line a fault.
    """
    joins = [task_join(task) for task in load_tasks(directory, overrides=overrides).values()]
    return JoinConfig({(join.tenant, join.task): join for join in joins})


def task_join(task: TaskFile) -> TaskJoin:
    """The join that a task's file asks for. Raises ConfigError with a line a fault."""
    rewards = config.parse(Rewards, task.section("rewards"), where="rewards")
    attribution = config.parse(Attribution, task.section("attribution"), where="attribution")
    digest = config.digest({"rewards": rewards.model_dump(), "attribution": attribution.model_dump()})
    return TaskJoin(tenant=task.tenant, task=task.name, rewards=rewards, attribution=attribution, digest=digest)


def config_parts(task: TaskFile) -> list[tuple[str, StrictModel, Mapping[str, object]]]:
    """(dotted name, model, what the file gave) of every part of a task's join, for `--print-config`. Raises ConfigError."""
    join, given = task_join(task), task.section("rewards")["outcomes"]
    outcomes = [(f"rewards.outcomes.{name}", outcome, given[name]) for name, outcome in join.rewards.outcomes.items()]
    return [*outcomes, ("attribution", join.attribution, task.section("attribution"))]


_TASK_SCHEMA = {
    "tenant": pl.String,
    "task": pl.String,
    "impression_us": pl.Int64,
    # The longest window: a decision closes this long after it was made.
    "window_us": pl.Int64,
    "grace_us": pl.Int64,
    # A closed decision takes late events for this long.
    "late_us": pl.Int64,
    # An event is kept for this long after it happened: until no decision that it could belong to takes it any more.
    "hold_us": pl.Int64,
    "max_future_us": pl.Int64,
    # An older slate may not be shown any more.
    "slate_age_us": pl.Int64,
    # Time of the provisional row after the decision; null = there is none.
    "provisional_us": pl.Int64,
    # Slots that were not seen count too.
    "all_slots": pl.Boolean,
    "credit_rule": pl.String,
    "join_config_digest": pl.String,
}
_OUTCOME_SCHEMA = {
    "tenant": pl.String,
    "task": pl.String,
    "name": pl.String,
    "order": pl.Int32,
    "outcome_us": pl.Int64,
    "aggregate": pl.String,
    "weight": pl.Float64,
    "default": pl.Float64,
    "for_slate": pl.Boolean,
    "anchored": pl.Boolean,
    # No reward of this outcome counts any more, this long after the decision.
    "closes_us": pl.Int64,
}


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _task_row(join: TaskJoin) -> tuple[object, ...]:
    section = join.attribution
    impression, grace = _us(section.impression_window_s), _us(section.grace_s)
    window = max([impression, *(_closes_us(outcome, section) for outcome in join.rewards.outcomes.values())])
    late = grace + _us(section.correction_horizon_s)
    future, age = _us(section.max_future_s), _us(_LONGEST_S if section.max_slate_age_s is None else section.max_slate_age_s)
    early = None if section.provisional_after_s is None else _us(section.provisional_after_s)
    # An event may precede its decision by the grace, hence the second one in the hold; a reward that is shared among decisions needs the
    # ones before, as far back as its window.
    hold = window + late + grace + (window if section.credit else 0)
    limits = (impression, window, grace, late, hold, future, age, early, section.learn_from == "all", section.credit)
    return (join.tenant, join.task, *limits, join.digest)


def _closes_us(outcome: Outcome, section: Attribution) -> int:
    return _us(outcome.window_s) + (_us(section.impression_window_s) if outcome.anchor == "impression" else 0)


def _outcome_rows(join: TaskJoin) -> list[tuple[object, ...]]:
    return [
        (
            join.tenant,
            join.task,
            name,
            order,
            _us(item.window_s),
            item.aggregate,
            item.weight,
            item.default,
            item.level == "slate",
            item.anchor == "impression",
            _closes_us(item, join.attribution),
        )
        for order, (name, item) in enumerate(join.rewards.outcomes.items())
    ]
