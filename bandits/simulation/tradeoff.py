"""A world with a second outcome that must not suffer: what earns more is less safe.

    reward   r_a = 1 + gain a / (A - 1) + w_a . x + noise        w_a ~ N(0, (signal^2 / d) I),  x ~ N(0, I_d),  noise ~ N(0, sigma^2)
    safety   c_a = 1 - loss a / (A - 1) + v_a . x + noise        v_a ~ N(0, (signal_safety^2 / d) I)

Action 0 is the baseline. An action violates where its expected safety is below (1 - alpha) times the baseline's at the same context (for
a baseline below zero by more than alpha of its size); `best` is the largest expected reward among those that do not. After the synthetic
problem of Daulton, Singh, Avadhanula, Dimmery and Bakshy 2019: linear outcomes of contexts and actions, one of them constrained beside a
baseline; the weights and the trade-off are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from bandits.policy import Dims
from bandits.simulation.environment import Environment, Offer, Outcome, World, offer_all
from protos import config

__all__ = ["SAFETY", "TradeoffSettings", "tradeoff"]

#: Name of the second outcome.
SAFETY = "safety"
_CAVEAT = (
    "violations: share of decisions that break the bound; regret is against the best action that keeps it, and falls below 0 by breaking it"
)


class TradeoffSettings(config.StrictModel):
    """Reward against safety."""

    #: How many actions, 2..1,000; the first is the baseline.
    actions: int = pydantic.Field(default=6, ge=2, le=1_000)
    #: Features of the context, 1..1,000.
    features: int = pydantic.Field(default=5, ge=1, le=1_000)
    #: Share of the baseline's safety that may be lost, in [0, 1].
    alpha: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    #: How much more the last action earns on average, and how much less safe it is.
    gain: float = 1.0
    loss: float = 0.4
    #: Standard deviation over contexts of an action's reward, and of its safety, > 0.
    signal: float = pydantic.Field(default=0.3, gt=0.0)
    signal_safety: float = pydantic.Field(default=0.2, gt=0.0)
    #: Standard deviation of the noise of reward and safety, >= 0.
    noise: float = pydantic.Field(default=0.1, ge=0.0)


class _Weights(NamedTuple):
    """Slopes of a seed, f64[A, d] each."""

    reward: np.ndarray
    safety: np.ndarray


class _Truth(NamedTuple):
    """Expected reward and safety of each action in a context, f64[A]; `feasible` bool[A]."""

    reward: jax.Array
    safety: jax.Array
    feasible: jax.Array


def tradeoff(settings: TradeoffSettings) -> Environment:
    """Two linear outcomes with Gaussian noise; the second comes as the outcome `safety`."""
    dims = Dims(actions=settings.actions, context=settings.features, features=0)
    ladder = np.arange(settings.actions) / (settings.actions - 1)

    def begin(seed: int) -> World:
        slopes = np.random.default_rng(seed).normal(size=(2, settings.actions, settings.features)) / np.sqrt(settings.features)
        return _Weights(settings.signal * slopes[0], settings.signal_safety * slopes[1])

    def offer(world: World, t: jax.Array, key: jax.Array) -> Offer:
        context = jax.random.normal(key, (settings.features,), jnp.float32)
        x = context.astype(jnp.float64)
        reward = 1.0 + settings.gain * ladder + world.reward @ x
        safety = 1.0 - settings.loss * ladder + world.safety @ x
        return offer_all(dims, context, truth=_Truth(reward, safety, safety >= safety[0] - settings.alpha * jnp.abs(safety[0])))

    def respond(world: World, t: jax.Array, offer: Offer, slate: jax.Array, key: jax.Array) -> Outcome:
        truth, action = offer.truth, slate[0]
        noise = settings.noise * jax.random.normal(key, (2,), jnp.float64)
        reward, seen = truth.reward[action] + noise[0], jnp.ones(1, bool)
        return Outcome(
            reward=reward[None],
            seen=seen,
            counted=seen[0],
            earned=reward,
            value=truth.reward[action],
            best=jnp.max(jnp.where(truth.feasible, truth.reward, -jnp.inf)),
            outcomes=(truth.safety[action] + noise[1])[None, None],
            violated=~truth.feasible[action],
        )

    return Environment(dims=dims, begin=begin, offer=offer, respond=respond, outcomes=(SAFETY,), caveat=_CAVEAT)
