"""The section `gate` of a task's file."""

import itertools
import math
from typing import Literal

import pydantic

from ope.errors import GateError
from protos import config
from protos.task import TaskFile

__all__ = ["GateConfig", "Guardrail", "gate_config"]


class Guardrail(config.StrictModel):
    """A metric that a promotion must not harm, judged on the same rows."""

    #: `reward`, or the name of one outcome. A mean per decision. If no row has it, the gate ends with an error.
    metric: str
    #: Which way is good.
    direction: Literal["higher", "lower"] = "higher"
    #: It may get worse by less than this, in the metric's unit, > 0: non-inferiority.
    margin: float = pydantic.Field(gt=0.0)


class GateConfig(config.StrictModel):
    """When a challenger may take the champion's place."""

    #: What is estimated: `reward` (the scalar of the section `rewards`), or the name of one outcome. A mean per decision.
    metric: str = "reward"
    #: Which way is good.
    direction: Literal["higher", "lower"] = "higher"
    #: Decides. `rips`: prefix weights; a slot's reward depends on this and the earlier slots. `sips`: joint ones, wider.
    estimator: Literal["rips", "sips"] = "rips"
    #: Shown beside it; where the two differ by more than their joint error, it is a veto: what the one assumes has failed.
    cross_check: Literal["rips", "sips"] = "sips"
    #: Probability, in (0, 0.25), that a challenger without the needed gain is promoted: one-sided error of the lower bound.
    level: float = pydantic.Field(default=0.05, gt=0.0, lt=0.25)
    #: `1`: one look, at `max_rows`. `sequential`: a look at every poll from `min_rows` to `max_rows`, with an interval that holds at all.
    looks: Literal[1, "sequential"] = "sequential"
    #: A refresh (same policy, newer data) may be worse by less than this, in the metric's unit, >= 0: non-inferiority.
    margin_refresh: float = pydantic.Field(default=0.0, ge=0.0)
    #: A change (another policy or settings) must be better by more than this, in the metric's unit, >= 0: superiority.
    margin_change: float = pydantic.Field(default=0.0, ge=0.0)
    #: Metrics that a promotion must not harm.
    guardrails: tuple[Guardrail, ...] = ()
    #: Whom every champion must not fall behind, so that refreshes cannot ratchet down: `baseline`, a snapshot's digest, or "" for nobody.
    anchor: str = "baseline"
    #: By how much less it may be than the anchor, in the metric's unit, >= 0: non-inferiority.
    margin_anchor: float = pydantic.Field(default=0.0, ge=0.0)
    #: Probability, in (0, 0.25), of ANY false promotion in a period, shared by its challengers: the j-th gets 6 / (pi j)^2 of it, at most
    #: `level`. Unset = each challenger has `level` for itself.
    error_budget: float | None = pydantic.Field(default=None, gt=0.0, lt=0.25)
    #: Length of that period, seconds, > 0.
    budget_period_s: float = pydantic.Field(default=604_800.0, gt=0.0)
    #: `offline`: logged rows, weighted. `online`: the arms of a staged promotion, compared. `both` must say yes. Before the first step of
    #: a staged promotion no arm has run, and the evidence is offline.
    evidence: Literal["offline", "online", "both"] = "offline"
    #: Shares of the traffic that a challenger gets one after the other, each on a verdict of its own; ascending, the last is 1.
    stages: tuple[float, ...] = (1.0,)
    #: Features of the context by which the difference is shown too; nothing is decided by them.
    segments: tuple[str, ...] = ()
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
    #: Actions logged in fewer rows than this count as never logged, >= 1.
    min_action_rows: int = pydantic.Field(default=5, ge=1)
    #: Share, in [0, 1], of the challenger's choices that may be actions which the champion does not know: exempt from `max_unsupported`.
    exploration_budget: float = pydantic.Field(default=0.0, ge=0.0, le=1.0)
    #: Largest share, in (0, 1], of all weight that the top 0.1 % of the rows may have, in a slot that carries the value.
    max_top_share: float = pydantic.Field(default=0.5, gt=0.0, le=1.0)
    #: Largest weight of a row in such a slot, > 0; unset = any.
    max_weight: float | None = pydantic.Field(default=None, gt=0.0)
    #: Largest share, in [0, 1], of the champion's own rows whose logged propensity is not the one that its snapshot gives.
    max_misreplayed: float = pydantic.Field(default=0.001, ge=0.0, le=1.0)
    #: Largest share, in [0, 1], of rows lost: shown otherwise than decided, not logged, expired or quarantined.
    max_lost: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    #: Oldest watermark of the table that is judged, seconds behind the clock, > 0; null = any, for logs of the past.
    max_stale_s: float | None = pydantic.Field(default=3_600.0, gt=0.0)
    #: Largest stability index, > 0, of a feature of the requests against the champion's training rows, as the servers keep it in the store
    #: (0.2 is a shift that matters, by custom); null = not asked.
    max_psi: float | None = pydantic.Field(default=None, gt=0.0)
    #: Rows are judged from this age on, seconds behind the watermark, beyond their windows, >= 0.
    min_age_s: float = pydantic.Field(default=0.0, ge=0.0)
    #: No promotion on rows that span less than this, seconds, >= 0: say 604,800 where weekdays differ.
    min_span_s: float = pydantic.Field(default=0.0, ge=0.0)
    #: Smallest and largest possible reward of a decision, in the metric's unit; a row outside is a veto. Unset = any finite number.
    reward_range: tuple[float, float] | None = None

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> "GateConfig":
        for low, high in (("min_rows", "max_rows"), ("veto_ess", "min_ess")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} = {getattr(self, low)} is above {high} = {getattr(self, high)}; lower the one or raise the other")
        if self.reward_range and self.reward_range[0] >= self.reward_range[1]:
            raise ValueError(f"reward_range = {list(self.reward_range)} is empty; give [smallest, largest]")
        if not self.stages or self.stages[-1] != 1 or any(low >= high for low, high in itertools.pairwise((0.0, *self.stages))):
            raise ValueError(f"stages = {list(self.stages)}: give ascending shares in (0, 1] that end with 1, say [0.01, 0.1, 0.5, 1]")
        if len({rail.metric for rail in self.guardrails}) < len(self.guardrails):
            raise ValueError("guardrails: a metric stands twice; give each one margin")
        return self

    def margin(self, kind: str) -> float:
        """What the difference must exceed, in the metric's unit. Raises GateError for a kind that is neither `refresh` nor `change`."""
        if kind not in ("refresh", "change"):
            raise GateError(f"challenger is of kind {kind!r}; the gate judges `refresh` and `change`: publish it as one of them")
        return -self.margin_refresh if kind == "refresh" else self.margin_change

    def next_share(self, share: float) -> float:
        """The share of the next step for a challenger that has `share` of the traffic now, 0 = none."""
        return next((step for step in self.stages if step > share), 1.0)

    def spent_level(self, challenger: int) -> float:
        """One-sided error of the `challenger`-th challenger of its period, from 1. The series sums to the budget (Basel problem)."""
        if self.error_budget is None:
            return self.level
        return min(self.level, self.error_budget * 6 / (math.pi * challenger) ** 2)


def gate_config(task: TaskFile) -> GateConfig:
    """The gate of a task. Raises ConfigError naming key, value and remedy."""
    return config.parse(GateConfig, task.section("gate"), where="gate")
