"""Several policies in one: each slot is drawn from the mixture of their distributions, and the mixture's probability is what is logged."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.errors import PolicyError
from bandits.policy import Batch, Candidates, Policy
from protos import config

__all__ = ["BlendSettings", "Member", "MixtureScores", "MixtureSettings", "blend", "mixture"]

Share = Annotated[float, pydantic.Field(gt=0.0, lt=1.0)]


class Member(config.StrictModel):
    """Another policy of the catalog, and its share of the traffic."""

    #: Its name in the catalog.
    policy: str
    #: Its settings.
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)
    #: Its share of the traffic, in (0, 1).
    share: Share


class MixtureSettings(config.StrictModel):
    """Settings of `mixture`."""

    #: The other policies; the shares sum to less than 1, the rest is the task's own.
    policies: tuple[Member, ...] = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _leaves_a_rest(self) -> "MixtureSettings":
        if sum(member.share for member in self.policies) >= 1.0:
            raise ValueError("the shares sum to 1 or more; leave a rest for the task's own policy")
        return self

    @property
    def members(self) -> tuple[Member, ...]:
        """The other policies."""
        return self.policies

    def with_settings(self, settings: Sequence[dict[str, Any]]) -> "MixtureSettings":
        """The same with other settings of the members."""
        changed = (member.model_copy(update={"settings": own}) for member, own in zip(self.policies, settings, strict=True))
        return self.model_copy(update={"policies": tuple(changed)})


class BlendSettings(config.StrictModel):
    """Settings of `blend`."""

    #: Name of the baseline in the catalog.
    baseline: str = "uniform"
    #: Its settings.
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)
    #: Share of the baseline, in (0, 1): how far the policy may not be trusted yet.
    share: Share = 0.5

    @property
    def members(self) -> tuple[Member, ...]:
        """The baseline."""
        return (Member(policy=self.baseline, settings=self.settings, share=self.share),)

    def with_settings(self, settings: Sequence[dict[str, Any]]) -> "BlendSettings":
        """The same with other settings of the baseline."""
        return self.model_copy(update={"settings": settings[0]})


class MixtureScores(NamedTuple):
    """`mean`, `scale`: of the first policy, f64[K]; `members`: the scores of each."""

    mean: jax.Array
    scale: jax.Array
    members: tuple[Any, ...]


def blend(policy: Policy, baseline: Policy, *, share: float) -> Policy:
    """A policy held back by a baseline: p' = (1 - share) p + share p_baseline, at each slot.

    So its value is at least share x the baseline's whatever was learned, for rewards >= 0 (conservative mixing: Kakade & Langford
    2002, eq. 4.1). `share` in (0, 1). Raises PolicyError outside it.
    """
    return mixture((policy, baseline), shares=(1.0 - share, share))


def mixture(policies: Sequence[Policy], *, shares: Sequence[float]) -> Policy:
    """The mixture p(a) = sum_i shares_i p_i(a), at each slot over what is left: every policy learns from all rows.

    The policy is drawn anew for each slot, so every slot's logged propensity is that of the mixture, given the earlier slots; with
    slates of one this is a split of the traffic. Scores shown to callers, and eligibility, are those of the first policy. States
    merge if those of all policies do. `shares` > 0 sum to 1. Raises PolicyError for other shares.
    """
    if len(policies) != len(shares) or not all(share > 0.0 for share in shares) or abs(sum(shares) - 1.0) > 1e-12:
        raise PolicyError(f"mixture.shares: {tuple(shares)!r} for {len(policies)} policies; give each a share > 0, of sum 1")
    merges = [member.merge for member in policies if member.merge is not None]

    def init() -> tuple[Any, ...]:
        return tuple(member.init() for member in policies)

    def update(state: tuple[Any, ...], batch: Batch) -> tuple[Any, ...]:
        return tuple(member.update(part, batch) for member, part in zip(policies, state, strict=True))

    def prepare(state: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(member.prepare(part) for member, part in zip(policies, state, strict=True))

    def score(params: tuple[Any, ...], context: jax.Array, candidates: Candidates, key: jax.Array) -> MixtureScores:
        members = tuple(member.score(part, context, candidates, key) for member, part in zip(policies, params, strict=True))
        return MixtureScores(mean=members[0].mean, scale=members[0].scale, members=members)

    def choose(scores: MixtureScores, mask: jax.Array) -> jax.Array:
        each = [share * member.choose(part, mask) for share, member, part in zip(shares, policies, scores.members, strict=True)]
        return jnp.sum(jnp.stack(each), axis=0)

    def merge(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(merge_one(a, b) for merge_one, a, b in zip(merges, left, right, strict=True))

    joint = merge if len(merges) == len(policies) else None
    return Policy(init, update, prepare, score, choose, joint, policies[0].eligible)
