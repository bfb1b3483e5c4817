"""The contract: a policy is a conditional distribution, given as five pure functions.

A slate is drawn slot by slot. `score` runs once a request; `choose` runs once a slot, over the candidates that are still eligible,
and its answer is the very vector from which the slot is drawn and whose entry is logged. Everything else (drawing, masking what was
drawn, exploration floors, the propensity of a logged slate) is generic and written once, in `slates`.

The functions are unbatched: one request at a time, callers `vmap`. They have no Python branch on array values, and the structure,
shapes and dtypes of state, params and scores never change after `init`. What an operator may change while a policy serves is a leaf
of the state; what shapes the program is closed over by the factory.

K candidates, d context features, f action features, A actions of the table, n rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Batch", "Candidates", "Dims", "Policy", "Scores", "State", "added"]

# A pytree of arrays that belongs to one policy.
State = Any
Params = Any


class Dims(NamedTuple):
    """Sizes that shape a policy's arrays."""

    # A: rows of the action table. Index A is the cold action: any id that the table lacks, always at its prior.
    actions: int
    # d: encoded context features.
    context: int
    # f: encoded action features; 0 = none.
    features: int


class Candidates(NamedTuple):
    """The candidates of one request.

    `action` i32[K], index into the action table (A = unknown); `features` f64[K, f]; `score` f64[K], what an external ranker says of
    each, 0 where none came with the request.
    """

    action: jax.Array
    features: jax.Array
    score: jax.Array

    @classmethod
    def of(cls, action: Any, *, features: Any = None, score: Any = None) -> "Candidates":
        """Candidates with what most callers leave out: no features, no external scores."""
        k = action.shape[0]
        features = jnp.zeros((k, 0), jnp.float64) if features is None else features
        return cls(action=action, features=features, score=jnp.zeros(k, jnp.float64) if score is None else score)


class Scores(Protocol):
    """What `score` returns: any NamedTuple of arrays whose first axis is K, or whose shape knows no K, with these two fields."""

    @property
    def mean(self) -> jax.Array:
        """Expected reward of each candidate, f64[K], units of reward; zeros where the policy has no model."""

    @property
    def scale(self) -> jax.Array:
        """Posterior standard deviation of `mean`, f64[K], units of reward; zeros where the policy has none."""


class Batch(NamedTuple):
    """Training rows, one a seen slot.

    `context` f64[n, d] raw units; `action` i32[n]; `features` f64[n, f]; `reward` f64[n]; `weight` f64[n]: 1 for a new row, -1 to take
    back a row that a revision replaces, 0 for padding; `time_s` f64[n], event time of the decision, seconds since the epoch; `slot`
    i32[n], where it stood, 0 = top; `propensity` f64[n], with which it was drawn, in (0, 1]; `outcomes` f64[n, J], the named outcomes
    that the policy asks for (`bandits.outcomes`), in its order and each in its own unit; J = 0, or None, for one that asks for none.
    """

    context: Any
    action: Any
    features: Any
    reward: Any
    weight: Any
    time_s: Any
    slot: Any
    propensity: Any
    outcomes: Any = None

    @classmethod
    def of(
        cls,
        context: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        *,
        features: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        time_s: np.ndarray | None = None,
        slot: np.ndarray | None = None,
        propensity: np.ndarray | None = None,
        outcomes: np.ndarray | None = None,
    ) -> "Batch":
        """Rows with what most callers leave out: no action features, weight 1, time 0, the top slot, propensity 1, no outcomes."""
        n = len(reward)
        return cls(
            context=np.asarray(context, np.float64),
            action=np.asarray(action, np.int32),
            features=np.zeros((n, 0)) if features is None else np.asarray(features, np.float64),
            reward=np.asarray(reward, np.float64),
            weight=np.ones(n) if weight is None else np.asarray(weight, np.float64),
            time_s=np.zeros(n) if time_s is None else np.asarray(time_s, np.float64),
            slot=np.zeros(n, np.int32) if slot is None else np.asarray(slot, np.int32),
            propensity=np.ones(n) if propensity is None else np.asarray(propensity, np.float64),
            outcomes=np.zeros((n, 0)) if outcomes is None else np.asarray(outcomes, np.float64),
        )

    @property
    def n_rows(self) -> int:
        """n; not `len`: a named tuple that redefines it loses `_replace`."""
        return int(self.reward.shape[0])


class Policy(NamedTuple):
    """Five pure functions, a sixth where states merge, and a seventh where some candidates may never be shown.

    Their parameter names are part of the contract and asserted over the whole catalog:

    - `init() -> state`: the prior, before any row.
    - `update(state, batch) -> state`: learns from rows of a `Batch`.
    - `prepare(state) -> params`: what serving needs, computed once a snapshot.
    - `score(params, context, candidates, key) -> scores`: once a request; `context` f64[d], `key` a typed JAX key (used by policies
      that draw from a posterior, ignored by the others).
    - `choose(scores, mask) -> p`: distribution of the next slot, f64[K]: >= 0, zero outside `mask` bool[K], summing to one over it
      (all zero where nothing is eligible).
    - `merge(left, right) -> state`: the state of both states' rows; None where the policy's updates do not commute.
    - `eligible(context, candidates, mask) -> mask`: which of the eligible candidates may be shown in this context, bool[K]; None = all.
      What it takes out has probability 0: it gets no floor, and no numerator.
    """

    init: Callable[[], State]
    update: Callable[[State, Batch], State]
    prepare: Callable[[State], Params]
    score: Callable[[Params, jax.Array, Candidates, jax.Array], Any]
    choose: Callable[[Any, jax.Array], jax.Array]
    merge: Callable[[State, State], State] | None = None
    eligible: Callable[[jax.Array, Candidates, jax.Array], jax.Array] | None = None


def added(left: State, right: State) -> State:
    """`merge` of a state that is a plain sum over rows."""
    return jax.tree.map(jnp.add, left, right)
