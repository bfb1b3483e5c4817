"""The loop against a slow one that decides and learns round by round, through the programs that serve."""

from typing import Any

import jax
import numpy as np
import pytest

from bandits.catalog import PolicySpec, build
from bandits.errors import SimulationError
from bandits.policy import Batch
from bandits.programs import run_decide, run_prepare
from bandits.quantise import DENOMINATOR
from bandits.requests import Requests
from bandits.simulation.clicks import ClicksSettings, clicks
from bandits.simulation.delay import delayed
from bandits.simulation.environment import Environment
from bandits.simulation.linear import LinearSettings, linear
from bandits.simulation.run import simulate

CLICKS = clicks(ClicksSettings(actions=5, features=3, seen=(1.0, 0.6)))
LINEAR = linear(LinearSettings(actions=3, features=2))
SEED, ROUNDS, BLOCK = 3, 26, 4


def spec(environment: Environment, name: str = "linear_thompson") -> PolicySpec:
    return PolicySpec.of(name, {}, floor=0.05, dims=environment.dims)


def keys_of(t: int) -> Any:
    return jax.random.split(jax.random.fold_in(jax.random.key(SEED), np.int32(t)), 4)


def slow(environment: Environment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slates i32[T, L], numerators u32[T, L] and rewards f64[T, L]: decisions by `run_decide`, rows learned when they are due."""
    which, world, waiting, told = spec(environment), environment.begin(SEED), [], []
    policy = build(which)
    state, update = policy.init(), jax.jit(policy.update)
    for t in range(ROUNDS):
        ask, draw, answer, wait = keys_of(t)
        offer = environment.offer(world, np.int32(t), ask)
        request = Requests.of(
            np.asarray(offer.context)[None], offer.candidates.action, slots=environment.slots, draw_key=jax.random.key_data(draw)[None]
        )
        drawn = run_decide(which, run_prepare(which, state), request, slots=environment.slots)
        outcome = environment.respond(world, np.int32(t), offer, drawn.slates[0], answer)
        told.append((drawn.slates[0], drawn.numerators[0], np.asarray(outcome.reward)))
        waiting.append((t + 1 + int(environment.delay(wait)), offer, drawn, outcome))
        if (t + 1) % BLOCK == 0:
            arrived = [row for row in waiting if row[0] <= t + 1]
            waiting = [row for row in waiting if row[0] > t + 1]
            for _, *row in arrived:
                state = update(state, _batch(*row))
    return tuple(np.stack(column) for column in zip(*told, strict=True))


def _batch(offer: Any, drawn: Any, outcome: Any) -> Batch:
    slots = drawn.slates.shape[1]
    return Batch.of(
        np.repeat(np.asarray(offer.context, np.float64)[None], slots, axis=0),
        drawn.slates[0],
        outcome.reward,
        weight=np.asarray(outcome.seen, np.float64),
        slot=np.arange(slots),
        propensity=drawn.numerators[0] / DENOMINATOR,
    )


@pytest.fixture(scope="module")
def late() -> Environment:
    return delayed(CLICKS, mean_rounds=3.0, longest_rounds=9)


def test_what_is_simulated_is_what_would_be_served(late: Environment) -> None:
    found = simulate(late, spec(late), rounds=ROUNDS, seeds=range(SEED, SEED + 1), learn_every=BLOCK)
    for name, column in found._asdict().items():
        by_slot = name in {"slate", "action", "numerator", "reward", "seen"}
        assert column.shape == ((1, ROUNDS, 2) if by_slot else (1, ROUNDS)), name
    slates, numerators, rewards = slow(late)
    np.testing.assert_array_equal(found.slate[0], slates)
    np.testing.assert_allclose(found.numerator[0].astype(float), numerators, rtol=0, atol=3e-7 * DENOMINATOR)
    np.testing.assert_array_equal(found.reward[0], rewards)


def test_a_seed_is_the_same_alone_and_among_others() -> None:
    together = simulate(LINEAR, spec(LINEAR), rounds=20, seeds=range(2))
    alone = simulate(LINEAR, spec(LINEAR), rounds=20, seeds=range(1, 2))
    np.testing.assert_array_equal(alone.slate[0], together.slate[1])
    np.testing.assert_allclose(alone.earned[0], together.earned[1], rtol=1e-12)
    assert not np.array_equal(together.earned[0], together.earned[1])


def test_policies_of_one_seed_meet_the_same_contexts() -> None:
    one, other = (simulate(LINEAR, spec(LINEAR, name), rounds=20, seeds=range(2)) for name in ("linear_thompson", "uniform"))
    np.testing.assert_array_equal(one.best, other.best)


def test_what_never_arrives_is_never_learned() -> None:
    """The known-bad case of a queue: with all rewards later than the last round, every decision is the prior's: even."""
    never = LINEAR._replace(delay=lambda key: np.int32(1_000), longest_delay=1_000)
    found = simulate(never, spec(never), rounds=20, seeds=range(2))
    np.testing.assert_allclose(found.numerator / DENOMINATOR, 1 / 3, atol=1e-6)
    learns = simulate(LINEAR, spec(LINEAR), rounds=20, seeds=range(2))
    assert np.abs(learns.numerator / DENOMINATOR - 1 / 3).max() > 0.1


@pytest.mark.parametrize(
    ("rounds", "seeds", "every", "says"), [(0, 1, 1, "rounds: 0"), (5, 0, 1, "seeds: 0"), (5, 1, 0, "learn_every: 0"), (11, 1, 1, "has 10")]
)
def test_impossible_runs_are_refused(rounds: int, seeds: int, every: int, says: str) -> None:
    with pytest.raises(SimulationError, match=says):
        simulate(LINEAR._replace(rounds=10), spec(LINEAR), rounds=rounds, seeds=range(seeds), learn_every=every)


@pytest.mark.parametrize(("mean", "longest"), [(0.0, 5), (-1.0, 5), (float("nan"), 5), (1.0, 0)])
def test_impossible_delays_are_refused(mean: float, longest: int) -> None:
    with pytest.raises(SimulationError, match=r"delay: mean .* give a mean > 0"):
        delayed(LINEAR, mean_rounds=mean, longest_rounds=longest)


def test_a_delay_is_geometric_and_cut() -> None:
    """20,000 draws against P(delay >= k) = (3/4)^k, each within 5 standard errors (false alarm 6e-7 a figure, four of them)."""
    late = delayed(LINEAR, mean_rounds=3.0, longest_rounds=6)
    drawn = np.asarray(jax.vmap(late.delay)(jax.random.split(jax.random.key(1), 20_000)))
    for k in (1, 2, 4, 6):
        expected = 0.75**k
        assert abs((drawn >= k).mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / len(drawn))
    assert drawn.max() == 6 and drawn.min() == 0
