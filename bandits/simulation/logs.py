"""Logged decisions as a world: replayed, where the policy is answered by what the log holds, or imitated by a model fitted on them.

- `replay` by rejection: a round counts if the policy draws the logged action, thinned by c / propensity, c the smallest logged
  propensity, so that what is left is as if logged at random (Li, Chu, Langford, Wang, WSDM 2011). Unbiased for a fixed policy; few rows.
- `replay` by ips: every round counts, and earns reward / propensity where the policy draws the logged action and 0 elsewhere (Horvitz,
  Thompson 1952). Unbiased for the policy as it learned from the rows that it drew; noisy.
- `imitation`: contexts from the log, rewards from a ridge regression for each action. As wrong as that model is, and kind to policies
  that think as it does; its figures are labelled as biased.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pydantic

from bandits.errors import SimulationError
from bandits.policy import Dims
from bandits.simulation.encoding import classes_of, encode_contexts, numbers_of
from bandits.simulation.environment import Environment, Offer, Outcome, World, offer_all, single
from protos import config

__all__ = ["ImitationSettings", "LoggedRows", "ReplaySettings", "imitation", "imitation_of", "logged_rows", "replay", "replay_of"]

REJECTION_CAVEAT = "replay by rejection: only rounds in which the policy drew the logged action count, and only they are learned from"
IPS_CAVEAT = "replay weighted by inverse propensity: a mean reward is an estimate, and may leave the range of the rewards"
IMITATION_CAVEAT = "biased: rewards come from a model fitted on logs, not from users; only rank policies by it, and trust no difference"


class ReplaySettings(config.StrictModel):
    """A log of single actions, replayed."""

    #: CSV or Parquet file with one row a decision; its columns that are not named here are the context.
    data: str
    #: Columns of the action shown, of its reward, and of the probability with which it was drawn.
    action: str
    reward: str
    propensity: str
    #: false = the first line is data, and the columns are named "0", "1", ...
    header: bool = True
    #: `rejection` skips rounds in which the policy drew otherwise; `ips` counts them as 0 and weighs the others.
    method: Literal["rejection", "ips"] = "rejection"


class ImitationSettings(config.StrictModel):
    """A log of single actions, imitated by a model."""

    #: CSV or Parquet file with one row a decision; its columns that are not named here are the context.
    data: str
    #: Columns of the action shown, and of its reward.
    action: str
    reward: str
    #: Columns that are no context, say the propensity.
    ignore: tuple[str, ...] = ()
    #: false = the first line is data, and the columns are named "0", "1", ...
    header: bool = True
    #: Ridge penalty on a standardised feature's weight, > 0.
    penalty: float = pydantic.Field(default=1.0, gt=0.0)


class LoggedRows(NamedTuple):
    """`context` f32[n, d]; `action` i32[n], index into `actions`; `reward` f64[n]; `propensity` f64[n], ones where none is known."""

    context: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    propensity: np.ndarray
    actions: tuple[str, ...]


def logged_rows(table: pa.Table, *, action: str, reward: str, propensity: str | None, ignore: tuple[str, ...] = ()) -> LoggedRows:
    """The log in a table. Raises SimulationError for missing columns or values, one action only, a propensity outside (0, 1]."""
    actions, codes = classes_of(table, action, role="action")
    given = numbers_of(table, propensity, role="propensity") if propensity is not None else np.ones(table.num_rows)
    if not np.all((given > 0.0) & (given <= 1.0)):
        row = int(np.argmin((given > 0.0) & (given <= 1.0)))
        raise SimulationError(
            f"propensity: column {propensity!r} holds {given[row]} in row {row} (0 = first); give probabilities in (0, 1]"
        )
    named = {action, reward, *ignore} | ({propensity} if propensity is not None else set())
    context = encode_contexts(table, leave_out=frozenset(named))
    return LoggedRows(context.astype(np.float32), codes, numbers_of(table, reward, role="reward"), given, actions)


def replay(rows: LoggedRows, *, method: Literal["rejection", "ips"]) -> Environment:
    """The log, one pass; seed s meets it in the order `numpy.random.default_rng(s).permutation(n)`. Regret is unknown (NaN)."""
    contexts, logged = jnp.asarray(rows.context), jnp.asarray(rows.action)
    rewards, propensities = jnp.asarray(rows.reward), jnp.asarray(rows.propensity)
    dims = _dims(rows)
    smallest = float(rows.propensity.min())

    def begin(seed: int) -> World:
        return np.random.default_rng(seed).permutation(len(rows.reward)).astype(np.int32)

    def offer(world: World, t: jax.Array, key: jax.Array) -> Offer:
        return offer_all(dims, contexts[world[t]], truth=world[t])

    def by_rejection(row: jax.Array, matches: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        kept = matches & (jax.random.uniform(key, (), jnp.float64) < smallest / propensities[row])
        return kept, kept, rewards[row]

    def by_ips(row: jax.Array, matches: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return matches, jnp.ones_like(matches), jnp.where(matches, rewards[row] / propensities[row], 0.0)

    answer = {"rejection": by_rejection, "ips": by_ips}[method]

    def respond(world: World, t: jax.Array, offer: Offer, slate: jax.Array, key: jax.Array) -> Outcome:
        row = offer.truth
        seen, counted, earned = answer(row, logged[row] == slate[0], key)
        unknown = jnp.full((), jnp.nan, jnp.float64)
        return Outcome(rewards[row][None], seen[None], counted=counted, earned=earned, value=unknown, best=unknown)

    return Environment(
        dims=dims,
        rounds=len(rows.reward),
        begin=begin,
        offer=offer,
        respond=respond,
        caveat={"rejection": REJECTION_CAVEAT, "ips": IPS_CAVEAT}[method],
    )


def imitation(rows: LoggedRows, *, penalty: float) -> Environment:
    """Contexts of the log in any number of rounds, drawn with replacement; rewards of a model of it.

    The model is a ridge regression for each action, its mean cut to the range of the logged rewards. Rewards are 0 or 1 where the log's
    are, and otherwise the mean with Gaussian noise as large as what the model leaves.
    """
    means, noise = _fitted(rows, penalty)
    contexts, expected = jnp.asarray(rows.context), jnp.asarray(means)
    binary = bool(np.isin(rows.reward, (0.0, 1.0)).all())
    dims = _dims(rows)

    def begin(seed: int) -> World:
        return np.zeros(0)

    def offer(world: World, t: jax.Array, key: jax.Array) -> Offer:
        row = jax.random.randint(key, (), 0, len(rows.reward), jnp.int32)
        return offer_all(dims, contexts[row], truth=expected[row])

    def respond(world: World, t: jax.Array, offer: Offer, slate: jax.Array, key: jax.Array) -> Outcome:
        value = offer.truth[slate[0]]
        coin = (jax.random.uniform(key, (), jnp.float64) < value).astype(jnp.float64)
        reward = coin if binary else value + noise * jax.random.normal(key, (), jnp.float64)
        return single(reward, value=value, best=jnp.max(offer.truth))

    return Environment(dims=dims, begin=begin, offer=offer, respond=respond, caveat=IMITATION_CAVEAT)


def replay_of(settings: ReplaySettings, table: pa.Table) -> Environment:
    """The environment `replay` of an experiment's file."""
    rows = logged_rows(table, action=settings.action, reward=settings.reward, propensity=settings.propensity)
    return replay(rows, method=settings.method)


def imitation_of(settings: ImitationSettings, table: pa.Table) -> Environment:
    """The environment `imitation` of an experiment's file."""
    rows = logged_rows(table, action=settings.action, reward=settings.reward, propensity=None, ignore=settings.ignore)
    return imitation(rows, penalty=settings.penalty)


def _dims(rows: LoggedRows) -> Dims:
    return Dims(actions=len(rows.actions), context=rows.context.shape[1], features=0)


def _fitted(rows: LoggedRows, penalty: float) -> tuple[np.ndarray, float]:
    """Mean reward of every row under every action, f64[n, A], and the standard deviation that the model leaves."""
    design = np.column_stack([np.ones(len(rows.reward)), rows.context.astype(np.float64)])
    # The intercept is all but free: an action's mean is what its rows say.
    ridge = penalty * np.eye(design.shape[1])
    ridge[0, 0] = 1e-6 * penalty
    weights = []
    for action in range(len(rows.actions)):
        x, y = design[rows.action == action], rows.reward[rows.action == action]
        weights.append(np.linalg.solve(x.T @ x + ridge, x.T @ y))
    means = np.clip(design @ np.stack(weights, axis=1), rows.reward.min(), rows.reward.max())
    left = rows.reward - means[np.arange(len(means)), rows.action]
    return means, float(left.std())
