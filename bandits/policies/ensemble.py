"""Bootstrapped ensemble Thompson sampling: one member of an ensemble of networks is believed in each slot.

    p_k = share of the M members for whom k is the best of the eligible candidates

Each member is trained on its own bootstrap of the rows: row i counts Poisson(1) times, a number that follows from the row and the
member alone (Osband and Van Roy, "Bootstrapped Thompson sampling and deep exploration", 2015; Poisson weights for streams after Oza
and Russell 2001). To each member's prediction a fixed random function of the context is added, which its training must undo where
there are rows (Osband, Aslanides and Cassirer, "Randomized prior functions", NeurIPS 2018): without rows members stay apart. The
function is the same for all actions, so actions without rows tie.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.keys import threefry2x32
from bandits.policies.network import MINIBATCH_ROWS, Network, Weights, multilayer, trained
from bandits.policies.replay import Standard, Window, appended, empty_window, standard_of
from bandits.policies.rules import greedy
from bandits.policy import Batch, Candidates, Dims, Policy
from protos import config

__all__ = ["EnsembleScores", "EnsembleSettings", "EnsembleState", "bootstrap_weights", "ensemble"]

# Units of a hidden layer of the random prior functions.
_PRIOR_UNITS = 16
# Minibatches an update at most: a batch as long as the default window is passed over 8 times.
_MOST_STEPS = 512
# Second words of the counters of this file's numbers (see `bandits.keys`): what each is for.
_BOOTSTRAP, _MULTIPLIERS = 2, 3
# P(Poisson(1) <= k) for k = 0..7; more than 8 is as rare as 1e-6.
_POISSON_CDF = (0.36787944, 0.73575888, 0.91969860, 0.98101184, 0.99634015, 0.99940582, 0.99991676, 0.99998975)


class EnsembleSettings(config.StrictModel):
    """Settings of `ensemble`."""

    #: Networks, 2..256. Probabilities are multiples of one over it.
    members: int = pydantic.Field(default=10, ge=2, le=256)
    #: Units of each of two hidden layers, 1..1024.
    hidden: int = pydantic.Field(default=32, ge=1, le=1024)
    #: Rows of the replay window, >= 64. They are part of every snapshot.
    window: int = pydantic.Field(default=4096, ge=64)
    #: How often a row is passed over when it comes, >= 1. Networks learn slowly: with 8 they reach two thirds of what 64 do on digits.
    passes: int = pydantic.Field(default=64, ge=1)
    #: Size of the random prior functions in standard deviations of the reward, >= 0.
    prior_scale: float = pydantic.Field(default=0.3, ge=0.0)
    #: Seed of the networks' first weights.
    seed: int = pydantic.Field(default=0, ge=0)


class _Members(NamedTuple):
    """Weights of all members, first axis M: of the networks that learn and of the prior functions that stay."""

    learned: Weights
    prior: Weights


class _Ensemble(NamedTuple):
    """What serving needs: the members, and what standardises contexts and rewards."""

    members: _Members
    of_context: Standard
    of_reward: Standard


class EnsembleState(NamedTuple):
    """`ensemble` as served, and the `window` of rows that it was trained on."""

    ensemble: _Ensemble
    window: Window


class _Networks(NamedTuple):
    """A member's two networks, and how much the prior function counts."""

    learned: Network
    prior: Network
    prior_scale: float


class EnsembleScores(NamedTuple):
    """`draws` f64[K, M]: each member's prediction, units of reward; `mean` and `scale` f64[K]: over the members."""

    mean: jax.Array
    scale: jax.Array
    draws: jax.Array


def ensemble(
    dims: Dims,
    *,
    members: int = 10,
    hidden: int = 32,
    window: int = 4096,
    passes: int = 64,
    prior_scale: float = 0.3,
    seed: int = 0,
) -> Policy:
    """Thompson sampling on an ensemble of `members` networks of two hidden layers of `hidden` units.

    `window`: rows kept; `passes`: how often a row is passed over when it comes; `prior_scale` >= 0 in standard deviations of the reward;
    `seed` of the first weights. Only rows of weight above 0 count. An action without rows is predicted at the mean of all rewards.
    """
    nets = _Networks(
        learned=multilayer((dims.context, hidden, hidden, dims.actions), last="zero"),
        prior=multilayer((dims.context, _PRIOR_UNITS, 1), last="linear"),
        prior_scale=prior_scale,
    )

    def init() -> EnsembleState:
        keys = jax.random.split(jax.random.key(seed), (2, members))
        weights = _Members(learned=jax.vmap(nets.learned.init)(keys[0]), prior=jax.vmap(nets.prior.init)(keys[1]))
        untouched = Standard(jnp.zeros(dims.context, jnp.float64), jnp.ones(dims.context, jnp.float64))
        of_reward = Standard(jnp.zeros((), jnp.float64), jnp.ones((), jnp.float64))
        return EnsembleState(_Ensemble(weights, untouched, of_reward), empty_window(dims, size=window))

    def update(state: EnsembleState, batch: Batch) -> EnsembleState:
        rows = appended(state.window, batch)
        steps = jnp.minimum(-(-(rows.rows - state.window.rows) * passes // MINIBATCH_ROWS), _MOST_STEPS)

        def learn(_: Any, standing: _Ensemble) -> _Ensemble:
            return _after_training(nets, standing.members, rows, steps=steps)

        # A loop of one round or none: without new rows nothing changes.
        return EnsembleState(jax.lax.fori_loop(0, (steps > 0).astype(jnp.int32), learn, state.ensemble), rows)

    def prepare(state: EnsembleState) -> _Ensemble:
        return state.ensemble

    def score(params: _Ensemble, context: jax.Array, candidates: Candidates, key: jax.Array) -> EnsembleScores:
        z = params.of_context.of(context)
        spreads = jax.vmap(lambda weights: _predicted(nets, weights, z))(params.members)
        draws = (params.of_reward.centre + params.of_reward.spread * spreads).T[candidates.action]
        return EnsembleScores(mean=jnp.mean(draws, axis=1), scale=jnp.std(draws, axis=1), draws=draws)

    def choose(scores: EnsembleScores, mask: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(greedy, in_axes=(1, None))(scores.draws, mask), axis=0)

    return Policy(init=init, update=update, prepare=prepare, score=score, choose=choose)


def bootstrap_weights(rows: Window, *, members: int) -> jax.Array:
    """How often each member counts each row, f64[W, M]: Poisson(1), from the row's context, action, time and slot and the member.

    The reward has no part in it, so a corrected reward keeps its counts; neither has the order in which rows came.
    """
    key = _hashed(rows)[:, None]
    member = jnp.arange(members, dtype=jnp.uint32)[None, :]
    bits, _ = threefry2x32(((key >> 32).astype(jnp.uint32), key.astype(jnp.uint32)), (member, jnp.full_like(member, _BOOTSTRAP)))
    share = bits.astype(jnp.float64) / 2.0**32
    return jnp.sum(share[:, :, None] >= jnp.asarray(_POISSON_CDF)[None, None, :], axis=2, dtype=jnp.float64)


def _hashed(rows: Window) -> jax.Array:
    """A hash of each row, u64[W]: its words times odd multipliers, summed (Dietzfelbinger and others 1997)."""
    numbers = jnp.concatenate([rows.context, rows.time_s[:, None]], axis=1)
    places = jnp.stack([rows.action, rows.slot], axis=1).astype(jnp.uint64)
    words = jnp.concatenate([jax.lax.bitcast_convert_type(numbers, jnp.uint64), places], axis=1)
    # The lower half of a round number is zeros: without the upper half in it, sums of such words would share few values.
    words = words ^ (words >> 32)
    counter = np.arange(words.shape[1], dtype=np.uint32)
    high, low = threefry2x32((np.uint32(0), np.uint32(0)), (counter, np.full_like(counter, _MULTIPLIERS)))
    odd = (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64) | np.uint64(1)
    return jnp.sum(words * odd[None, :], axis=1)


def _predicted(nets: _Networks, weights: _Members, z: jax.Array) -> jax.Array:
    """One member's prediction for every action of the table and the cold one, [..., A+1], in standard deviations of the reward."""
    learned = nets.learned.apply(weights.learned, z)
    cold = jnp.zeros((*learned.shape[:-1], 1), jnp.float64)
    return jnp.concatenate([learned, cold], axis=-1) + nets.prior_scale * nets.prior.apply(weights.prior, z)


def _after_training(nets: _Networks, members: _Members, rows: Window, *, steps: jax.Array) -> _Ensemble:
    """Each member after `steps` minibatches of its bootstrap, squared error of the standardised reward of the action that was shown."""
    of_context, of_reward = standard_of(rows.context, rows.weight), standard_of(rows.reward, rows.weight)
    z, y = of_context.of(rows.context), of_reward.of(rows.reward)

    def of_member(weights: _Members, counts: jax.Array) -> Weights:
        def loss(learned: Weights, places: jax.Array) -> jax.Array:
            values = _predicted(nets, weights._replace(learned=learned), z[places])
            of_shown = jnp.take_along_axis(values, rows.action[places][:, None], axis=1)[:, 0]
            return jnp.mean((counts * rows.weight)[places] * (of_shown - y[places]) ** 2)

        return trained(loss, weights.learned, rows, steps=steps)

    counts = bootstrap_weights(rows, members=jax.tree.leaves(members)[0].shape[0])
    return _Ensemble(members._replace(learned=jax.vmap(of_member, in_axes=(0, 1))(members, counts)), of_context, of_reward)
