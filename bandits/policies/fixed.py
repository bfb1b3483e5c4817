"""Declared probabilities, the same for every context: a baseline that is known before the data."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.errors import PolicyError
from bandits.policies.row_count import count_rows, no_rows
from bandits.policies.rules import proportional
from bandits.policy import Candidates, Dims, Policy, added
from protos import config

__all__ = ["FixedScores", "FixedSettings", "fixed"]

# What written decimals may leave of a sum of one.
_SUM_TOLERANCE = 1e-6


class FixedSettings(config.StrictModel):
    """Settings of `fixed`."""

    #: One a row of the action table, in its order, >= 0, summing to one. Empty: even.
    probabilities: tuple[float, ...] = ()
    #: Weight of an action that the table lacks, beside those probabilities, >= 0.
    cold_weight: float = pydantic.Field(default=0.0, ge=0.0)


class FixedScores(NamedTuple):
    """`mean` and `scale` f64[K] zero: there is no model. `weight` f64[K]: the declared probability of each candidate."""

    mean: jax.Array
    scale: jax.Array
    weight: jax.Array


def fixed(dims: Dims, *, probabilities: Sequence[float] = (), cold_weight: float = 0.0) -> Policy:
    """p_k = w_k / (sum of w over the eligible candidates); even where that sum is zero. Its state counts rows, f64[].

    `probabilities`: one a row of the action table, >= 0, summing to one within 1e-6; empty = even. `cold_weight` >= 0: of an action
    that the table lacks. Raises PolicyError for another number of them, or numbers that are no distribution.
    """
    _check(dims, probabilities)
    declared = (*probabilities, cold_weight) if probabilities else (1.0,) * (dims.actions + 1)
    weights = jnp.asarray(declared, jnp.float64)

    def prepare(state: jax.Array) -> jax.Array:
        return weights

    def score(params: jax.Array, context: jax.Array, candidates: Candidates, key: jax.Array) -> FixedScores:
        nothing = jnp.zeros(candidates.action.shape[0], jnp.float64)
        return FixedScores(mean=nothing, scale=nothing, weight=params[candidates.action])

    def choose(scores: FixedScores, mask: jax.Array) -> jax.Array:
        return proportional(scores.weight, mask)

    return Policy(init=no_rows, update=count_rows, prepare=prepare, score=score, choose=choose, merge=added)


def _check(dims: Dims, probabilities: Sequence[float]) -> None:
    if not probabilities:
        return
    where = "policy.settings.probabilities"
    if len(probabilities) != dims.actions:
        raise PolicyError(f"{where}: {len(probabilities)} given, the action table has {dims.actions} rows; give one a row, in its order")
    if min(probabilities) < 0.0 or not math.isclose(sum(probabilities), 1.0, rel_tol=0.0, abs_tol=_SUM_TOLERANCE):
        raise PolicyError(f"{where}: {list(probabilities)} sum to {sum(probabilities)}; give numbers >= 0 that sum to one")
