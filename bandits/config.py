"""The sections `features` and `policy` of a task's file, and what they come to."""

import dataclasses
import json
from typing import Any, Literal

import pydantic

from bandits.catalog import PolicySpec, outcomes, parsed
from bandits.continuous import RangeSection
from bandits.errors import PolicyError
from bandits.features import FeaturesSection, Schema
from bandits.outcomes import AsksForOutcomes
from bandits.policy import Dims
from bandits.preselection import PRESELECT
from bandits.wrappers.declared import with_places
from protos import config
from protos.task import TaskFile

__all__ = ["PolicySection", "TaskPolicy", "parse_task"]


class FirstSection(config.StrictModel):
    """What serves before anything was learned, and what the kill switch goes back to."""

    #: Name in the catalog of policies.
    name: str = "uniform"
    #: Settings of that policy.
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)
    #: Share of traffic that explores evenly, in [0, 1]. Whatever may not be drawn at first cannot be judged from the log.
    floor: float = pydantic.Field(default=0.0, ge=0.0, le=1.0)


class PolicySection(config.StrictModel):
    """The section `policy` of a task's file."""

    #: Name in the catalog of policies.
    name: str = "linear_thompson"
    #: Settings of that policy; each has a default that needs no hindsight.
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)
    #: Share of traffic that explores evenly, in (0, 1]. Without one, an update could not be judged from the log. Of K candidates none is
    #: drawn with less than floor / K: so no weight of an estimate exceeds K / floor, and that share of the traffic is not the policy's.
    floor: float = pydantic.Field(default=0.02, gt=0.0, le=1.0)
    #: What the policy is wrapped in, the first innermost: `{name: discount, half_life_s: 604800}`. The floor lies outside them all.
    wrappers: tuple[dict[str, Any], ...] = ()
    #: Most candidates that a slate is drawn from, 64..10,000: of a longer list the best by mean + scale; the others have probability 0.
    preselect: int = pydantic.Field(default=PRESELECT, ge=64, le=10_000)
    #: Slots of a slate where the request names no size, 1..64.
    slate_size: int = pydantic.Field(default=1, ge=1, le=64)
    #: A continuous parameter in place of actions: what is drawn is a bin of its range, and a value within the bin.
    range: RangeSection | None = None
    #: What keys a draw: each `decision`, the `unit` (it keeps its slate while probabilities stand), or `unit+epoch`.
    draw_by: Literal["decision", "unit", "unit+epoch"] = "decision"
    #: Epoch of sticky draws; raise it to deal anew.
    epoch: int = 0
    #: Which slots train: the `seen` ones, or `all` (an unseen slot then counts as reward 0, as shown and ignored).
    train_on: Literal["seen", "all"] = "seen"
    #: The first champion; uniform over the eligible candidates where none is declared.
    first: FirstSection = FirstSection()
    #: Decisions that a challenger must add to the newest snapshot before it is published, > 0.
    min_new_rows: int = pydantic.Field(default=2_000, ge=1)


@dataclasses.dataclass(frozen=True)
class TaskPolicy:
    """What serving, learning and evaluation need to know of a task's policy."""

    name: str
    tenant: str
    config_digest: str
    schema: Schema
    spec: PolicySpec
    section: PolicySection

    @property
    def baseline(self) -> PolicySpec:
        """The first champion, `policy.first`: those candidates that the task masks left out."""
        masks = [wrapper for wrapper in json.loads(self.spec.wrappers) if wrapper["name"] == "mask"]
        first = self.section.first
        return PolicySpec.of(first.name, first.settings, floor=first.floor, dims=self.spec.dims, wrappers=masks)


def parse_task(task: TaskFile) -> TaskPolicy:
    """The policy of a task. Raises ConfigError or PolicyError naming key, value and remedy."""
    schema = Schema.of(config.parse(FeaturesSection, task.section("features"), where="features"))
    section = config.parse(PolicySection, task.section("policy"), where="policy")
    if section.range is not None:
        schema = _of_range(section, section.range, schema)
    dims = Dims(actions=len(schema.actions), context=schema.context_size, features=schema.action_feature_size)
    wrappers = with_places(section.wrappers, schema)
    settings = _placed(section, schema, task)
    spec = PolicySpec.of(section.name, settings, floor=section.floor, dims=dims, wrappers=wrappers, preselect=section.preselect)
    outcomes(spec)
    return TaskPolicy(name=task.name, tenant=task.tenant, config_digest=task.digest, schema=schema, spec=spec, section=section)


def _placed(section: PolicySection, schema: Schema, task: TaskFile) -> dict[str, Any]:
    """The policy's settings with the task's own names, of actions and outcomes, checked and turned into places."""
    own = parsed(section.name, section.settings)
    if not isinstance(own, AsksForOutcomes):
        return section.settings
    rewards = task.section("rewards")
    named = tuple((rewards.get("outcomes") or {}) if isinstance(rewards, dict) else ())
    return own.placed(actions=schema.actions, outcomes=named, given=section.settings).model_dump(mode="json")


def _of_range(section: PolicySection, declared: RangeSection, schema: Schema) -> Schema:
    """The schema whose actions are the bins of the range."""
    if schema.actions or schema.action:
        raise PolicyError(f"policy.range: stands beside the actions {list(schema.actions)[:3]} or their features; give one of the two")
    if section.slate_size != 1:
        raise PolicyError(f"policy.slate_size: {section.slate_size} with policy.range is refused; one value is drawn, give 1")
    return dataclasses.replace(schema, actions=declared.actions)
