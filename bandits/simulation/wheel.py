"""The wheel: a rare region in which one action pays far more, found only by those who keep exploring.

Contexts are uniform on the unit disk. Action 0 pays N(1.2, 0.01^2) everywhere; the four others pay N(1, 0.01^2), except that outside
the radius delta the one of the context's quadrant pays N(50, 0.01^2) (Riquelme, Tucker, Snoek, "Deep Bayesian bandits showdown",
ICLR 2018, section 5.4; their numbers).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.policy import Dims
from bandits.simulation.environment import Environment, Offer, Outcome, World, offer_all, single
from protos import config

__all__ = ["WheelSettings", "wheel"]

_SAFE, _PLAIN, _RARE, _NOISE = 1.2, 1.0, 50.0, 0.01
_DIMS = Dims(actions=5, context=2, features=0)


class WheelSettings(config.StrictModel):
    """How rare the rare region is."""

    #: Radius within which action 0 is best, in (0, 1): its area is a share delta^2 of the contexts.
    delta: float = pydantic.Field(default=0.95, gt=0.0, lt=1.0)


def wheel(settings: WheelSettings) -> Environment:
    """The wheel of a delta. All seeds have the same parameters; what differs are contexts and noise."""

    def begin(seed: int) -> World:
        return np.zeros(0)

    def offer(world: World, t: jax.Array, key: jax.Array) -> Offer:
        radius_key, angle_key = jax.random.split(key)
        radius = jnp.sqrt(jax.random.uniform(radius_key, (), jnp.float32))
        angle = 2.0 * np.pi * jax.random.uniform(angle_key, (), jnp.float32)
        context = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return offer_all(_DIMS, context, truth=_expected(context, settings.delta))

    def respond(world: World, t: jax.Array, offer: Offer, slate: jax.Array, key: jax.Array) -> Outcome:
        value = offer.truth[slate[0]]
        return single(value + _NOISE * jax.random.normal(key, (), jnp.float64), value=value, best=jnp.max(offer.truth))

    return Environment(dims=_DIMS, begin=begin, offer=offer, respond=respond)


def _expected(context: jax.Array, delta: float) -> jax.Array:
    """Expected reward of each action, f64[5]."""
    left, below = context[0] < 0.0, context[1] < 0.0
    quadrant = 1 + jnp.where(left, 1, 0) + jnp.where(below, 2, 0)
    plain = jnp.full(_DIMS.actions, _PLAIN, jnp.float64).at[0].set(_SAFE)
    outside = jnp.sum(context.astype(jnp.float64) ** 2) > delta**2
    return jnp.where(outside, plain.at[quadrant].set(_RARE), plain)
