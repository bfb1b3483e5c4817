"""Slates under position bias: an item is clicked if its slot is looked at and the item appeals.

    P(click in slot l) = seen_l * 1 / (1 + exp(-(w_a . x + bias)))

(the position-based model; Richardson, Dominowska, Ragno 2007). Appeal is independent by slot, so the best slate puts the most
appealing items where most is seen.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.errors import SimulationError
from bandits.policy import Dims
from bandits.simulation.environment import Environment, Offer, Outcome, World, expected_of, offer_all
from bandits.simulation.linear import LinearSettings, linear_scores, weights_of
from protos import config

__all__ = ["ClicksSettings", "clicks"]

Share = Annotated[float, pydantic.Field(gt=0.0, le=1.0)]


class ClicksSettings(config.StrictModel):
    """Items, and how far down a page is looked at."""

    #: How many items, 2..1,000.
    actions: int = pydantic.Field(default=10, ge=2, le=1_000)
    #: Features of the context, 1..1,000.
    features: int = pydantic.Field(default=8, ge=1, le=1_000)
    #: Probability that each slot is looked at, from the top; as many as the slate has slots.
    seen: tuple[Share, ...] = (1.0, 0.7, 0.4)
    #: Standard deviation of the log-odds of a click over contexts, > 0, and their mean.
    signal: float = pydantic.Field(default=1.0, gt=0.0)
    bias: float = -1.0
    #: `seen`: the log says which slots were looked at, and only those train. `all`: it does not; an ignored slot counts as reward 0.
    train_on: Literal["seen", "all"] = "seen"


def clicks(settings: ClicksSettings) -> Environment:
    """Slates of clicks. Raises SimulationError for a slate of no slots, or of more slots than items."""
    slots, dims = len(settings.seen), Dims(actions=settings.actions, context=settings.features, features=0)
    if not 1 <= slots <= settings.actions:
        raise SimulationError(f"environment.settings.seen: {slots} slots for {settings.actions} actions; give 1..{settings.actions}")
    seen = np.asarray(settings.seen)
    ordered = np.sort(seen)[::-1]
    weights = LinearSettings(actions=settings.actions, features=settings.features, signal=settings.signal)

    def begin(seed: int) -> World:
        return weights_of(weights, seed)[0]

    def offer(world: World, t: jax.Array, key: jax.Array) -> Offer:
        context, score = linear_scores(world, key)
        return offer_all(dims, context, truth=jax.nn.sigmoid(score + settings.bias))

    def respond(world: World, t: jax.Array, offer: Offer, slate: jax.Array, key: jax.Array) -> Outcome:
        look, like = jax.random.uniform(key, (2, slots), jnp.float64)
        appeal, looked = expected_of(offer.truth, slate), look < seen
        click = jnp.where(looked & (like < appeal), 1.0, 0.0)
        return Outcome(
            reward=click,
            seen=looked | (settings.train_on == "all"),
            counted=jnp.ones((), bool),
            earned=jnp.sum(click),
            value=jnp.sum(seen * appeal),
            best=jnp.sum(ordered * jax.lax.top_k(offer.truth, slots)[0]),
        )

    return Environment(dims=dims, slots=slots, begin=begin, offer=offer, respond=respond)
