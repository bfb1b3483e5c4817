"""A start from logged data: rows that another policy drew count as if the actions had been drawn evenly, or speak of every action."""

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.errors import PolicyError
from bandits.policy import Batch, Candidates, Policy, State
from protos import config

__all__ = ["WarmStartSettings", "doubly_robust_rows", "even_weights", "started_from", "warm_start"]

_CAP = 10.0


class WarmStartSettings(config.StrictModel):
    """Settings of `warm_start`."""

    #: Rows of decisions before this event time, seconds since the epoch, were logged by other policies.
    until_s: float
    #: Largest weight of one row, >= 1. Lower = less variance, more of the logger's preferences.
    cap: float = pydantic.Field(default=_CAP, ge=1.0)


def warm_start(policy: Policy, *, actions: int, until_s: float, cap: float = _CAP) -> Policy:
    """The policy with rows before `until_s` (event time, seconds) weighed by `even_weights`; later rows count as they are.

    A logger that preferred some actions leaves a model that fits where that logger looked; the weights undo it (inverse propensity
    weighting: Horvitz & Thompson 1952; for warm starts Zhang et al. 2019). A row's weight follows from the row alone, so updates stay
    as exact as the policy's. `actions` >= 1: of the table.
    """

    def update(state: State, batch: Batch) -> State:
        weight = jnp.where(batch.time_s < until_s, even_weights(batch, actions=actions, cap=cap), 1.0)
        return policy.update(state, batch._replace(weight=batch.weight * weight))

    return policy._replace(update=update)


def even_weights(batch: Batch, *, actions: int, cap: float = _CAP) -> jax.Array:
    """Weight of each row towards evenly drawn actions: w = min(1 / (A p), cap), f64[n], p its logged propensity.

    Without the cap its mean is 1, so the log counts as many rows as it has; the cap trades that for variance.
    """
    return jnp.minimum(1.0 / (actions * jnp.asarray(batch.propensity)), cap)


def doubly_robust_rows(policy: Policy, batch: Batch, *, actions: int, cap: float = _CAP) -> Batch:
    """Each logged row as one row for every action a, of weight 1 / A and with the doubly robust reward

        q(x, a) + 1[a = logged] min(1 / p, cap) (r - q(x, a)),

    q the policy's own mean after the other half of the rows (two folds, by place; Dudik et al. 2011, eq. 4). Returns A n rows, for
    `started_from`. Raises PolicyError where actions have features, which a log has for the logged action only.
    """
    if batch.features.shape[1]:
        raise PolicyError("doubly_robust_rows: these rows have action features, unknown for the actions not taken; use `even_weights`")
    modelled = _cross_fitted(policy, batch, actions=actions, cap=cap)
    taken = np.arange(actions)[None, :] == batch.action[:, None]
    correction = np.minimum(1.0 / batch.propensity, cap)[:, None] * (batch.reward[:, None] - modelled)
    rows = Batch(*(np.repeat(column, actions, axis=0) for column in batch))
    return rows._replace(
        action=np.tile(np.arange(actions, dtype=np.int32), batch.n_rows),
        reward=(modelled + np.where(taken, correction, 0.0)).ravel(),
        weight=rows.weight / actions,
        propensity=np.ones(actions * batch.n_rows),
    )


def started_from(policy: Policy, rows: Batch) -> Policy:
    """The policy whose prior has learned the rows. States of it do not merge: each holds them."""
    learned = jax.jit(policy.update)(policy.init(), rows)
    return policy._replace(init=lambda: learned, merge=None)


def _cross_fitted(policy: Policy, batch: Batch, *, actions: int, cap: float) -> np.ndarray:
    """Mean reward of every action at each row, f64[n, A], after the evenly weighed rows of the other fold."""
    every, key = Candidates.of(jnp.arange(actions, dtype=jnp.int32)), jax.random.key(0)
    weights = batch.weight * np.asarray(even_weights(batch, actions=actions, cap=cap))
    modelled = np.zeros((batch.n_rows, actions))
    fold = np.arange(batch.n_rows) % 2

    def means(rows: Batch) -> jax.Array:
        params = policy.prepare(policy.update(policy.init(), rows))
        return jax.vmap(lambda context: policy.score(params, context, every, key).mean)(jnp.asarray(rows.context))

    compiled = jax.jit(means)
    for held_out in (0, 1):
        found = compiled(batch._replace(weight=np.where(fold == held_out, 0.0, weights)))
        modelled[fold == held_out] = np.asarray(found)[fold == held_out]
    return modelled
