"""Worlds in which the expected reward of an action is a function of a linear score, which may drift.

    linear:    E[r | x, a] = w_a . x,             r = E + noise N(0, noise^2)
    logistic:  E[r | x, a] = 1 / (1 + exp(-w_a . x)),   r in {0, 1}

with x ~ N(0, I_d) and w_a ~ N(0, (signal^2 / d) I) of the seed, so that scores vary as much whatever d is. Drift is a pure function of
the round: `turning` moves each w_a around a circle, w_a(t) = cos(2 pi t / period) u_a + sin(2 pi t / period) v_a, with u and v as w;
`switching` draws all weights anew every `period` rounds.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.policy import Dims
from bandits.simulation.environment import Environment, Offer, Outcome, World, offer_all, single
from protos import config

__all__ = ["DriftingSettings", "LinearSettings", "drifting", "linear", "linear_scores", "logistic", "weights_of"]


class LinearSettings(config.StrictModel):
    """Actions with weights of their own."""

    #: How many actions, 2..1,000.
    actions: int = pydantic.Field(default=5, ge=2, le=1_000)
    #: Features of the context, 1..1,000.
    features: int = pydantic.Field(default=10, ge=1, le=1_000)
    #: Standard deviation of a score over contexts, > 0.
    signal: float = pydantic.Field(default=1.0, gt=0.0)
    #: Standard deviation of the noise of a linear reward, >= 0; a logistic reward has its own.
    noise: float = pydantic.Field(default=0.5, ge=0.0)


class DriftingSettings(LinearSettings):
    """Weights that change with the rounds."""

    #: How: `turning` on a circle, or `switching` to new ones at once.
    drift: Literal["turning", "switching"] = "turning"
    #: Rounds of a full circle, or between two switches.
    period: int = pydantic.Field(default=2_000, ge=1)


class _Seeded(NamedTuple):
    """What a seed fixes: `weights` f64[2, A, d], and itself, u32[]."""

    weights: np.ndarray
    seed: np.ndarray


def linear(settings: LinearSettings) -> Environment:
    """Linear rewards with Gaussian noise, the same weights throughout."""
    return _world(settings, _steady, lambda score, key: _noisy(score, key, settings.noise), mean=lambda score: score)


def logistic(settings: LinearSettings) -> Environment:
    """Rewards 0 or 1 with log-odds that are linear in the context."""
    return _world(settings, _steady, _coin, mean=jax.nn.sigmoid)


def drifting(settings: DriftingSettings) -> Environment:
    """Linear rewards whose weights drift."""
    weights = {"turning": _turning, "switching": _switching}[settings.drift]
    return _world(
        settings,
        lambda world, t: weights(settings, world, t),
        lambda score, key: _noisy(score, key, settings.noise),
        mean=lambda score: score,
    )


def weights_of(settings: LinearSettings, seed: int, *, sets: int = 1) -> np.ndarray:
    """Weights of a seed, f64[sets, A, d], each N(0, signal^2 / d)."""
    shape = (sets, settings.actions, settings.features)
    return np.random.default_rng(seed).normal(size=shape) * settings.signal / np.sqrt(settings.features)


def linear_scores(weights: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A context x ~ N(0, I) as it travels, f32[d], and w_a . x of it, f64[A]."""
    context = jax.random.normal(key, weights.shape[1:], jnp.float32)
    return context, weights @ context.astype(jnp.float64)


def _world(
    settings: LinearSettings,
    weights: Callable[[World, jax.Array], jax.Array],
    draw: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    mean: Callable[[jax.Array], jax.Array],
) -> Environment:
    dims = Dims(actions=settings.actions, context=settings.features, features=0)

    def begin(seed: int) -> World:
        return _Seeded(weights_of(settings, seed, sets=2), np.asarray(seed, np.uint32))

    def offer(world: World, t: jax.Array, key: jax.Array) -> Offer:
        context, score = linear_scores(weights(world, t), key)
        return offer_all(dims, context, truth=score)

    def respond(world: World, t: jax.Array, offer: Offer, slate: jax.Array, key: jax.Array) -> Outcome:
        expected = mean(offer.truth)
        return single(draw(offer.truth[slate[0]], key), value=expected[slate[0]], best=jnp.max(expected))

    return Environment(dims=dims, begin=begin, offer=offer, respond=respond)


def _noisy(score: jax.Array, key: jax.Array, noise: float) -> jax.Array:
    return score + noise * jax.random.normal(key, (), jnp.float64)


def _coin(score: jax.Array, key: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, jax.nn.sigmoid(score)).astype(jnp.float64)


def _steady(world: _Seeded, t: jax.Array) -> jax.Array:
    return world.weights[0]


def _turning(settings: DriftingSettings, world: _Seeded, t: jax.Array) -> jax.Array:
    angle = (2.0 * np.pi / settings.period) * t.astype(jnp.float64)
    return jnp.cos(angle) * world.weights[0] + jnp.sin(angle) * world.weights[1]


def _switching(settings: DriftingSettings, world: _Seeded, t: jax.Array) -> jax.Array:
    scale = settings.signal / np.sqrt(settings.features)
    # The other word of a round's key is zero, so no period shares its bits with a round.
    words = jnp.stack([world.seed, (t // settings.period).astype(jnp.uint32) + 1])
    key = jax.random.wrap_key_data(words, impl="threefry2x32")
    return scale * jax.random.normal(key, world.weights.shape[1:], jnp.float64)
