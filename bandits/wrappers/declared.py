"""Wrappers by name, as a task's file declares them: `policy.wrappers`, the first innermost, the exploration floor outside them all."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bandits.errors import PolicyError
from bandits.features import Schema
from bandits.policy import Dims, Policy
from bandits.wrappers.discount import DiscountSettings, discount
from bandits.wrappers.even_start import EvenStartSettings, even_start
from bandits.wrappers.mask import MaskSettings, mask, resolved
from bandits.wrappers.mixture import BlendSettings, Member, MixtureSettings, blend, mixture
from bandits.wrappers.position_bias import PositionBiasSettings, position_bias
from bandits.wrappers.sliding_window import SlidingWindowSettings, sliding_window
from bandits.wrappers.warm_start import WarmStartSettings, warm_start
from protos import config

__all__ = ["WRAPPERS", "Around", "Wrapper", "canonical", "members", "with_places", "wrapped"]


class Around(NamedTuple):
    """What a wrapper may need besides its settings: the sizes, and any policy of the catalog, built by name and settings."""

    dims: Dims
    policy: Callable[[str, Mapping[str, Any]], Policy]


class Wrapper(NamedTuple):
    """A wrapper of a policy. `wrap(policy, settings, around) -> policy`, `settings` a parsed model."""

    wrap: Callable[[Policy, Any, Around], Policy]
    settings: type[config.StrictModel]


def _mixture(policy: Policy, settings: MixtureSettings, around: Around) -> Policy:
    shares = [member.share for member in settings.policies]
    others = [around.policy(member.policy, member.settings) for member in settings.policies]
    return mixture((policy, *others), shares=(1.0 - sum(shares), *shares))


def _blend(policy: Policy, settings: BlendSettings, around: Around) -> Policy:
    return blend(policy, around.policy(settings.baseline, settings.settings), share=settings.share)


def _warm_start(policy: Policy, settings: WarmStartSettings, around: Around) -> Policy:
    return warm_start(policy, actions=max(around.dims.actions, 1), **settings.model_dump())


def _alone(function: Callable[..., Policy]) -> Callable[[Policy, Any, Around], Policy]:
    """A wrapper that needs its settings only."""
    return lambda policy, settings, around: function(policy, **settings.model_dump())


WRAPPERS: Mapping[str, Wrapper] = {
    "blend": Wrapper(wrap=_blend, settings=BlendSettings),
    "discount": Wrapper(wrap=_alone(discount), settings=DiscountSettings),
    "even_start": Wrapper(wrap=_alone(even_start), settings=EvenStartSettings),
    "mask": Wrapper(wrap=_alone(mask), settings=MaskSettings),
    "mixture": Wrapper(wrap=_mixture, settings=MixtureSettings),
    "position_bias": Wrapper(wrap=_alone(position_bias), settings=PositionBiasSettings),
    "sliding_window": Wrapper(wrap=_alone(sliding_window), settings=SlidingWindowSettings),
    "warm_start": Wrapper(wrap=_warm_start, settings=WarmStartSettings),
}


def canonical(wrappers: Sequence[Mapping[str, Any]], *, settled: Callable[[str, Mapping[str, Any]], dict[str, Any]]) -> str:
    """Declared wrappers, each `{name: ..., setting: value, ...}`, checked and as canonical JSON.

    `settled(name, settings)` writes out the settings of another policy. Raises PolicyError for an unknown name, with the nearest one,
    and ConfigError for settings that are refused.
    """
    models = []
    for name, model in _parsed(wrappers):
        if isinstance(model, MixtureSettings | BlendSettings):
            model = model.with_settings([settled(member.policy, member.settings) for member in model.members])
        models.append({"name": name, **model.model_dump(mode="json")})
    return json.dumps(models, sort_keys=True)


def with_places(wrappers: Sequence[Mapping[str, Any]], schema: Schema) -> list[dict[str, Any]]:
    """Declared wrappers with the names of actions and features, where they hold any, turned into places. Raises PolicyError."""
    return [
        {"name": name, **(resolved(model, schema) if isinstance(model, MaskSettings) else model).model_dump(mode="json")}
        for name, model in _parsed(wrappers)
    ]


def members(wrappers: str) -> list[Member]:
    """The other policies that canonical wrappers bring in."""
    return [
        member
        for _, model in _parsed(json.loads(wrappers))
        for member in (model.members if isinstance(model, MixtureSettings | BlendSettings) else ())
    ]


def wrapped(policy: Policy, wrappers: str, around: Around) -> Policy:
    """The policy inside canonical wrappers, the first innermost."""
    for name, model in _parsed(json.loads(wrappers)):
        policy = WRAPPERS[name].wrap(policy, model, around)
    return policy


def _parsed(wrappers: Sequence[Mapping[str, Any]]) -> list[tuple[str, config.StrictModel]]:
    found = []
    for place, given in enumerate(wrappers):
        where = f"policy.wrappers.{place}"
        settings = dict(given)
        name = str(settings.pop("name", ""))
        if name not in WRAPPERS:
            raise PolicyError(f"{where}.name: {name!r} is no wrapper; {config.nearest(name, WRAPPERS)}")
        found.append((name, config.parse(WRAPPERS[name].settings, settings, where=where)))
    return found
