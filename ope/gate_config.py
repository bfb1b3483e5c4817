"""The section `gate` of a task's file."""

from typing import Literal

import pydantic

from ope.errors import GateError
from protos import config
from protos.task import TaskFile

__all__ = ["GateConfig", "gate_config"]


class GateConfig(config.StrictModel):
    """When a challenger may take the champion's place."""

    #: What is estimated: `reward` (the scalar of the section `rewards`), or the name of one outcome. A mean per decision.
    metric: str = "reward"
    #: Decides. `rips`: prefix weights; a slot's reward depends on this and the earlier slots. `sips`: joint ones, wider.
    estimator: Literal["rips", "sips"] = "rips"
    #: Shown beside it; a promotion that it contradicts outright is held.
    cross_check: Literal["rips", "sips"] = "sips"
    #: Probability, in (0, 0.25), that a challenger without the needed gain is promoted: one-sided error of the lower bound.
    level: float = pydantic.Field(default=0.05, gt=0.0, lt=0.25)
    #: `1`: one look, at `max_rows`. `sequential`: a look at every poll from `min_rows` on, with an interval that holds at all of them.
    looks: Literal[1, "sequential"] = "sequential"
    #: A refresh (same policy, newer data) may be worse by less than this, in the metric's unit, >= 0: non-inferiority.
    margin_refresh: float = pydantic.Field(default=0.0, ge=0.0)
    #: A change (another policy or settings) must be better by more than this, in the metric's unit, >= 0: superiority.
    margin_change: float = pydantic.Field(default=0.0, ge=0.0)
    #: No look before this many rows, >= 2.
    min_rows: int = pydantic.Field(default=1_000, ge=2)
    #: At this many rows there is a verdict, whatever it is, >= min_rows.
    max_rows: int = pydantic.Field(default=100_000, ge=2)
    #: Effective rows needed to promote, for the challenger and in each slot that carries its value, > 0.
    min_ess: float = pydantic.Field(default=1_000.0, gt=0.0)
    #: Fewer effective rows than this at the end are a veto; between the two the challenger is held. In (0, min_ess].
    veto_ess: float = pydantic.Field(default=200.0, gt=0.0)
    #: Share of the challenger's estimated value, in (0, 1], that the slots which carry it have together, largest first.
    value_share: float = pydantic.Field(default=0.8, gt=0.0, le=1.0)
    #: Probability, in (0, 0.1), that sound propensities are vetoed because a mean weight seems to differ from 1, over all slots and looks.
    mean_weight_level: float = pydantic.Field(default=1e-3, gt=0.0, lt=0.1)
    #: Largest share, in [0, 1], of the challenger's choices that no logged slate of these rows ever held.
    max_unsupported: float = pydantic.Field(default=0.01, ge=0.0, le=1.0)
    #: Smallest and largest possible reward of a decision, in the metric's unit; a row outside is a veto. Unset = any finite number.
    reward_range: tuple[float, float] | None = None

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> "GateConfig":
        for low, high in (("min_rows", "max_rows"), ("veto_ess", "min_ess")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} = {getattr(self, low)} is above {high} = {getattr(self, high)}; lower the one or raise the other")
        if self.reward_range and self.reward_range[0] >= self.reward_range[1]:
            raise ValueError(f"reward_range = {list(self.reward_range)} is empty; give [smallest, largest]")
        return self

    def margin(self, kind: str) -> float:
        """What the difference must exceed, in the metric's unit. Raises GateError for a kind that is neither `refresh` nor `change`."""
        if kind not in ("refresh", "change"):
            raise GateError(f"challenger is of kind {kind!r}; the gate judges `refresh` and `change`: publish it as one of them")
        return -self.margin_refresh if kind == "refresh" else self.margin_change


def gate_config(task: TaskFile) -> GateConfig:
    """The gate of a task. Raises ConfigError naming key, value and remedy."""
    return config.parse(GateConfig, task.section("gate"), where="gate")
