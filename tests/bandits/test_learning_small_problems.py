"""Does each policy of these families learn? Four actions, a context of two numbers, rewards of 0 or 1, 12 batches of 100 decisions.

The yardstick is known: mu(x, a) is the chance of a reward, so a decision's gain over even play is mu(x, a) - mean_b mu(x, b), at most 1
in range. Over the last 400 decisions a policy that is no better than even play has a mean gain of 0.131 or more with probability 1e-6
at most (Hoeffding: exp(-2 n t^2)); the tests ask for 0.14. Decisions, rewards and updates run in one compiled program a policy.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.catalog import PolicySpec, build
from bandits.policy import Batch, Candidates, Dims

DIMS = Dims(actions=4, context=2, features=0)
BATCHES, ROWS, LAST = 12, 100, 4
# Log-odds of a reward: slopes by action, so that each action is the best in a sector of the plane.
SLOPES = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
EVERY = Candidates.of(jnp.arange(DIMS.actions, dtype=jnp.int32))

SMALL: dict[str, dict[str, Any]] = {
    "epsilon_greedy": {},
    "softmax": {},
    "square_cb": {},
    "reg_cb": {},
    "logistic_thompson": {},
    "logistic_ucb": {},
    "neural_linear": {"hidden": 16, "features": 8, "window": 1024, "retrain_every": 200, "steps": 60},
    "ensemble": {"members": 5, "hidden": 16, "window": 1024, "passes": 16},
    "counterfactual": {"window": 1024},
}


class World(NamedTuple):
    """What a batch brings: contexts f64[n, 2], uniform numbers for the draw and for the reward f64[n] each."""

    context: np.ndarray
    draw: np.ndarray
    luck: np.ndarray


def gain_by_batch(name: str, settings: dict[str, Any]) -> np.ndarray:
    """Mean gain over even play of each batch."""
    policy = build(PolicySpec.of(name, settings, floor=0.05, dims=DIMS))

    def decide(params: Any, context: jax.Array, draw: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = policy.score(params, context, EVERY, jax.random.key(0))
        p = policy.choose(scores, jnp.ones(DIMS.actions, bool))
        action = jnp.minimum(jnp.sum(jnp.cumsum(p) <= draw), DIMS.actions - 1)
        return action.astype(jnp.int32), p[action]

    @jax.jit
    def round_of(state: Any, world: World, start: jax.Array) -> tuple[Any, jax.Array]:
        action, propensity = jax.vmap(decide, in_axes=(None, 0, 0))(policy.prepare(state), world.context, world.draw)
        mu = jax.nn.sigmoid(world.context @ SLOPES.T - 1.0)
        of_shown = jnp.take_along_axis(mu, action[:, None], axis=1)[:, 0]
        rows = Batch(
            context=world.context,
            action=action,
            features=jnp.zeros((ROWS, 0), jnp.float64),
            reward=jnp.where(world.luck < of_shown, 1.0, 0.0),
            weight=jnp.ones(ROWS, jnp.float64),
            time_s=start + jnp.arange(ROWS, dtype=jnp.float64),
            slot=jnp.zeros(ROWS, jnp.int32),
            propensity=propensity,
        )
        return policy.update(state, rows), jnp.mean(of_shown - jnp.mean(mu, axis=1))

    rng, state, gains = np.random.default_rng(7), policy.init(), []
    for number in range(BATCHES):
        world = World(rng.normal(size=(ROWS, 2)), rng.random(ROWS), rng.random(ROWS))
        state, gain = round_of(state, world, np.float64(number * ROWS))
        gains.append(float(gain))
    return np.array(gains)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_it_learns_what_even_play_does_not(name: str) -> None:
    """The best action gains 0.44 on average, so 0.14 is a third of what there is. Measured: 0.38 to 0.43, floor on."""
    assert gain_by_batch(name, SMALL[name])[-LAST:].mean() > 0.14


@pytest.mark.parametrize("name", ["uniform", "fixed"])
def test_a_policy_that_cannot_learn_is_found_by_the_same_measure(name: str) -> None:
    assert abs(gain_by_batch(name, {})[-LAST:].mean()) < 0.131
