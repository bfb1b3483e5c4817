"""Actions that are never shown, or never in some contexts. What is masked has probability 0: no floor, no numerator."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import pydantic

from bandits.errors import PolicyError
from bandits.features import Feature, Schema
from bandits.policy import Candidates, Policy
from protos import config

__all__ = ["Condition", "MaskSettings", "mask", "resolved"]


class Condition(config.StrictModel):
    """Actions that are not shown while a context feature lies in a range; or has a value, `equals`."""

    #: Name of a context feature; in a snapshot its place in the encoded vector.
    feature: str | int
    #: A word of a category, or true / false; excludes `above` and `below`.
    equals: str | bool | None = None
    #: It holds for values > `above`.
    above: float | None = None
    #: It holds for values < `below`.
    below: float | None = None
    #: Ids of the actions; in a snapshot their places in the action table.
    never: tuple[str | int, ...]

    @pydantic.model_validator(mode="after")
    def _says_when(self) -> "Condition":
        if (self.equals is None) == (self.above is None and self.below is None):
            raise ValueError(f"feature {self.feature!r}: give `equals`, or `above` and/or `below`")
        return self


class MaskSettings(config.StrictModel):
    """Settings of `mask`."""

    #: Ids of actions that are never shown; in a snapshot their places in the action table.
    never: tuple[str | int, ...] = ()
    #: Actions that are not shown in some contexts.
    when: tuple[Condition, ...] = ()


def mask(policy: Policy, *, never: Sequence[int] = (), when: Sequence[Any] = ()) -> Policy:
    """The policy on the candidates that may be shown.

    `never`: places in the action table. `when`: mappings with `feature`, a place in the encoded context, `above` and/or `below`, and
    `never`; a context that is NaN there masks as if the condition held. A request whose every candidate is masked gets an empty slate.

    Raises PolicyError for a name that was not resolved to its place.
    """
    named = [place for place in (*never, *(p for rule in when for p in (rule["feature"], *rule["never"]))) if not isinstance(place, int)]
    if named:
        raise PolicyError(f"mask: {named[0]!r} is a name, where a place in the table is needed; resolve it with `mask.resolved`")

    def eligible(context: jax.Array, candidates: Candidates, mask: jax.Array) -> jax.Array:
        mask = mask if policy.eligible is None else policy.eligible(context, candidates, mask)
        mask = mask & ~_is_one_of(candidates.action, never)
        for rule in when:
            mask = mask & ~(_holds(rule, context) & _is_one_of(candidates.action, rule["never"]))
        return mask

    return policy._replace(eligible=eligible)


def resolved(settings: MaskSettings, schema: Schema) -> MaskSettings:
    """Settings with names of actions and features turned into their places. Raises PolicyError for a name that the task lacks."""

    def places(actions: Sequence[str | int], where: str) -> tuple[int, ...]:
        return tuple(_place(action, schema.actions, f"{where}.never") for action in actions)

    conditions = [
        _placed(rule, schema).model_copy(update={"never": places(rule.never, f"mask.when.{index}")})
        for index, rule in enumerate(settings.when)
    ]
    return MaskSettings(never=places(settings.never, "mask"), when=tuple(conditions))


def _holds(rule: Any, context: jax.Array) -> jax.Array:
    """Negated, so that NaN, of which nothing is known, counts as holding."""
    value, above, below = context[rule["feature"]], rule.get("above"), rule.get("below")
    fails = jnp.zeros((), bool)
    fails = fails if above is None else fails | (value <= above)
    return ~(fails if below is None else fails | (value >= below))


def _is_one_of(action: jax.Array, places: Sequence[int]) -> jax.Array:
    found = jnp.zeros(action.shape, bool)
    for place in places:
        found = found | (action == place)
    return found


def _place(name: str | int, known: Sequence[str], where: str) -> int:
    if isinstance(name, int) and 0 <= name < len(known):
        return name
    if name not in known:
        raise PolicyError(f"policy.wrappers.{where}: {name!r} is no action of the task; {config.nearest(str(name), known)}")
    return known.index(str(name))


def _placed(rule: Condition, schema: Schema) -> Condition:
    """A condition on a place in the encoded context."""
    if isinstance(rule.feature, int):
        return rule
    start = 0
    for feature in schema.context:
        if feature.name == rule.feature:
            return _on_places(rule, feature, start)
        start += feature.width
    known = [feature.name for feature in schema.context]
    raise PolicyError(f"policy.wrappers.mask.when: {rule.feature!r} is no context feature; {config.nearest(rule.feature, known)}")


def _on_places(rule: Condition, feature: Feature, start: int) -> Condition:
    where = f"policy.wrappers.mask.when: feature {feature.name!r}"
    if feature.type == "category":
        if rule.equals not in feature.vocabulary:
            raise PolicyError(f"{where} has no word {rule.equals!r}; {config.nearest(str(rule.equals), feature.vocabulary)}")
        return _at(rule, start + feature.vocabulary.index(str(rule.equals)), side="above")
    if feature.width != 1 or (rule.equals is not None) != (feature.type == "bool"):
        raise PolicyError(
            f"{where} is of type {feature.type}, size {feature.width}; `equals` is for words and flags, ranges for one number"
        )
    if feature.type == "bool":
        return _at(rule, start, side="above" if rule.equals is True else "below")
    return rule.model_copy(update={"feature": start})


def _at(rule: Condition, place: int, *, side: Literal["above", "below"]) -> Condition:
    """A flag or one-hot place that is set (above 0.5) or not."""
    return rule.model_copy(update={"feature": place, "equals": None, side: 0.5})
