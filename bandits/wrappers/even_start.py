"""A start by even chance: a policy that knows nothing yet explores first, for a declared number of rows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.policies.rules import even
from bandits.policy import Batch, Candidates, Policy, State
from protos import config

__all__ = ["EvenStartScores", "EvenStartSettings", "EvenStartState", "even_start"]


class EvenStartSettings(config.StrictModel):
    """Settings of `even_start`."""

    #: Rows that are learned before the policy itself decides, >= 1.
    rows: float = pydantic.Field(ge=1.0)


class EvenStartState(NamedTuple):
    """`inside`: the policy's state; `rows` f64[]: total weight of the rows learned."""

    inside: Any
    rows: jax.Array


class EvenStartScores(NamedTuple):
    """`mean`, `scale` and `inside` of the policy; `started` f64[]: 1 once it decides."""

    mean: jax.Array
    scale: jax.Array
    inside: Any
    started: jax.Array


def even_start(policy: Policy, *, rows: float) -> Policy:
    """Even over what is eligible until `rows` rows have been learned (their total weight), the policy from then on.

    What it plays is decided snapshot by snapshot, so the logged propensity is exact throughout.
    """

    def init() -> EvenStartState:
        return EvenStartState(policy.init(), jnp.zeros((), jnp.float64))

    def update(state: EvenStartState, batch: Batch) -> EvenStartState:
        return EvenStartState(policy.update(state.inside, batch), state.rows + jnp.sum(batch.weight))

    def prepare(state: EvenStartState) -> EvenStartState:
        return EvenStartState(policy.prepare(state.inside), state.rows)

    def score(params: EvenStartState, context: jax.Array, candidates: Candidates, key: jax.Array) -> EvenStartScores:
        inside = policy.score(params.inside, context, candidates, key)
        return EvenStartScores(inside.mean, inside.scale, inside, jnp.where(params.rows >= rows, 1.0, 0.0))

    def choose(scores: EvenStartScores, mask: jax.Array) -> jax.Array:
        return jnp.where(scores.started > 0.0, policy.choose(scores.inside, mask), even(mask))

    def merge(left: State, right: State) -> State:
        assert policy.merge is not None
        return EvenStartState(policy.merge(left.inside, right.inside), left.rows + right.rows)

    joint = None if policy.merge is None else merge
    return policy._replace(init=init, update=update, prepare=prepare, score=score, choose=choose, merge=joint)
