"""A policy tree: thresholds on features decide which action is played. It is made by `bandits personalise`, and read by `bandits explain`.

A complete tree of depth D is three arrays: node t has the children 2t + 1 (x <= threshold) and 2t + 2, and the last level is the action of
each leaf. Exploration is the floor's; without one the log would hold propensities of 1.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.errors import PolicyError
from bandits.policies.fixed import FixedScores
from bandits.policies.row_count import count_rows, no_rows, nothing
from bandits.policies.rules import proportional
from bandits.policy import Candidates, Dims, Policy, added
from protos import config

__all__ = ["PolicyTreeSettings", "leaf_of", "policy_tree", "thresholds"]


class PolicyTreeSettings(config.StrictModel):
    """Settings of `policy_tree`: none = no tree, and even probabilities."""

    #: Place in the encoded context that each inner node looks at, level by level; 2^D - 1 of them.
    feature: tuple[int, ...] = ()
    #: A row goes left where its feature is at most this; null = every row goes left.
    threshold: tuple[float | None, ...] = ()
    #: Place in the action table that each leaf plays, left to right; 2^D of them.
    action: tuple[int, ...] = ()
    #: What people are told of each leaf beside its rule, left to right; "" = nothing. It changes no decision.
    note: tuple[str, ...] = ()

    @pydantic.model_validator(mode="after")
    def _is_complete(self) -> "PolicyTreeSettings":
        if self.action and len(self.action) & (len(self.action) - 1):
            raise ValueError(f"{len(self.action)} leaves; a complete tree has 1, 2, 4, 8, ... in `action`")
        inner = max(len(self.action) - 1, 0)
        if len(self.feature) != inner or len(self.threshold) != inner:
            raise ValueError(f"{len(self.action)} leaves need {inner} entries in `feature` and in `threshold`")
        if self.note and len(self.note) != len(self.action):
            raise ValueError(f"{len(self.action)} leaves need as many entries in `note`, or none")
        return self


def policy_tree(
    dims: Dims,
    *,
    feature: Sequence[int] = (),
    threshold: Sequence[float | None] = (),
    action: Sequence[int] = (),
    note: Sequence[str] = (),
) -> Policy:
    """p_k = [k is the action of the context's leaf]; even where that is not eligible. Its state counts rows, f64[].

    The arrays are those of the settings. Raises PolicyError for a place outside the encoded context or the action table.
    """
    _check(dims, feature, action)
    features, bounds = jnp.asarray(feature, jnp.int32), jnp.asarray(thresholds(threshold), jnp.float64)
    leaves = jnp.asarray(action, jnp.int32)

    def score(params: jax.Array, context: jax.Array, candidates: Candidates, key: jax.Array) -> FixedScores:
        nothing = jnp.zeros(candidates.action.shape[0], jnp.float64)
        if not action:
            return FixedScores(mean=nothing, scale=nothing, weight=nothing)
        played = leaves[leaf_of(features, bounds, context)]
        return FixedScores(mean=nothing, scale=nothing, weight=(candidates.action == played).astype(jnp.float64))

    def choose(scores: FixedScores, mask: jax.Array) -> jax.Array:
        return proportional(scores.weight, mask)

    return Policy(init=no_rows, update=count_rows, prepare=nothing, score=score, choose=choose, merge=added)


def leaf_of(feature: jax.Array, threshold: jax.Array, context: jax.Array) -> jax.Array:
    """The leaf of a context f64[d] in a complete tree, i32[]; `feature` i32[2^D - 1], `threshold` f64[2^D - 1]."""
    inner = feature.shape[0]
    node = jnp.zeros((), jnp.int32)
    for _ in range(inner.bit_length()):
        node = 2 * node + 1 + (context[feature[node]] > threshold[node]).astype(jnp.int32)
    return node - inner


def thresholds(given: Sequence[float | None]) -> np.ndarray:
    """Thresholds as f64, infinity for null."""
    return np.array([np.inf if each is None else each for each in given], np.float64)


def _check(dims: Dims, feature: Sequence[int], action: Sequence[int]) -> None:
    for name, places, size, of in (
        ("feature", feature, dims.context, "encoded context"),
        ("action", action, dims.actions, "action table"),
    ):
        for place in places:
            if not 0 <= place < size:
                raise PolicyError(f"policy.settings.{name}: {place} is no place in the {of}, which has {size}; give one below that")
