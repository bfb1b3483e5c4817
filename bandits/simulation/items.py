"""A catalogue of items with features, of which some are offered in each request: what is learned of one item tells of others.

    E[r | x, a] = u . f_a + x' B f_a + e_a,   r = E + noise N(0, noise^2)

with x ~ N(0, I_d) and item features f_a ~ N(0, I_g) of the seed. Half of a score's variance comes from u, half from the interaction B;
e_a ~ N(0, own^2) is what the features of an item do not say.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.errors import SimulationError
from bandits.policy import Candidates, Dims
from bandits.simulation.environment import Environment, Offer, Outcome, World, single
from protos import config

__all__ = ["ItemsSettings", "items"]


class ItemsSettings(config.StrictModel):
    """A catalogue, and how much of it a request offers."""

    #: Items of the catalogue, 2..10,000, and how many each request offers, drawn evenly, 2..items.
    items: int = pydantic.Field(default=50, ge=2, le=10_000)
    offered: int = pydantic.Field(default=10, ge=2)
    #: Features of the context and of an item, 1..1,000 each.
    features: int = pydantic.Field(default=5, ge=1, le=1_000)
    item_features: int = pydantic.Field(default=5, ge=1, le=1_000)
    #: Standard deviations of the part of a reward that features tell, > 0, of an item's own part, and of the noise, >= 0.
    signal: float = pydantic.Field(default=1.0, gt=0.0)
    own: float = pydantic.Field(default=0.0, ge=0.0)
    noise: float = pydantic.Field(default=0.5, ge=0.0)


class _Items(NamedTuple):
    """Of a seed: `features` f64[A, g], as float32 has them, `main` f64[g], `interaction` f64[d, g], `own` f64[A]."""

    features: np.ndarray
    main: np.ndarray
    interaction: np.ndarray
    own: np.ndarray


def items(settings: ItemsSettings) -> Environment:
    """Requests that offer a part of the catalogue. Raises SimulationError where they offer more than there is."""
    if settings.offered > settings.items:
        raise SimulationError(f"environment.settings.offered: {settings.offered} of {settings.items} items; give 2..{settings.items}")
    dims = Dims(actions=settings.items, context=settings.features, features=settings.item_features)

    def begin(seed: int) -> World:
        return _drawn(settings, np.random.default_rng(seed))

    def offer(world: World, t: jax.Array, key: jax.Array) -> Offer:
        context_key, items_key = jax.random.split(key)
        context = jax.random.normal(context_key, (dims.context,), jnp.float32)
        action = jax.random.permutation(items_key, dims.actions)[: settings.offered].astype(jnp.int32)
        features = world.features[action]
        expected = features @ (world.main + context.astype(jnp.float64) @ world.interaction) + world.own[action]
        return Offer(context, Candidates.of(action, features=features), jnp.ones(settings.offered, bool), truth=expected)

    def respond(world: World, t: jax.Array, offer: Offer, slate: jax.Array, key: jax.Array) -> Outcome:
        value = offer.truth[slate[0]]
        return single(value + settings.noise * jax.random.normal(key, (), jnp.float64), value=value, best=jnp.max(offer.truth))

    return Environment(dims=dims, begin=begin, offer=offer, respond=respond)


def _drawn(settings: ItemsSettings, rng: np.random.Generator) -> _Items:
    d, g = settings.features, settings.item_features
    features = rng.normal(size=(settings.items, g)).astype(np.float32).astype(np.float64)
    half = settings.signal / np.sqrt(2.0)
    main, interaction = rng.normal(size=g) * half / np.sqrt(g), rng.normal(size=(d, g)) * half / np.sqrt(d * g)
    return _Items(features, main, interaction, own=rng.normal(size=settings.items) * settings.own)
