"""The loop: offer, score, draw, answer, learn. One program a policy, mapped over seeds.

A policy goes through its own `score` and `choose` and through `slates.sample_slate`, with keys of the same form as a server's, so what
is simulated is what would be served. It learns after each block of `learn_every` decisions, from the rewards that have arrived by then.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.catalog import PolicySpec, build, outcomes
from bandits.errors import SimulationError
from bandits.policy import Batch, Policy
from bandits.preselection import in_request, shortlist
from bandits.quantise import DENOMINATOR
from bandits.simulation.environment import Environment, Offer, Outcome, World
from bandits.slates import Slate, sample_slate

__all__ = ["History", "simulate"]


class History(NamedTuple):
    """What happened, by seed and round: [S, T] and, by slot, [S, T, L].

    `slate` i32, indices into the candidates; `action` i32, of the table; `numerator` u32, out of 2^31; `reward` f64 and `seen` bool by
    slot; `counted` bool, `earned`, `value` and `best` f64 and `violated` bool by round, as in `Outcome`.
    """

    slate: np.ndarray
    action: np.ndarray
    numerator: np.ndarray
    reward: np.ndarray
    seen: np.ndarray
    counted: np.ndarray
    earned: np.ndarray
    value: np.ndarray
    best: np.ndarray
    violated: np.ndarray


class _Pending(NamedTuple):
    """Rows whose rewards may still be on the way: a training batch, and the round in which each becomes known."""

    rows: Batch
    due: jax.Array


def simulate(environment: Environment, spec: PolicySpec, *, rounds: int, seeds: range, learn_every: int = 1) -> History:
    """Runs a policy for `rounds` decisions on each seed; all seeds go through the device together.

    `learn_every`: decisions between two updates, >= 1; the last block may be shorter. Raises SimulationError for no rounds or seeds,
    more rounds than the environment has, or a policy that asks for outcomes which it lacks.
    """
    for name, value in (("rounds", rounds), ("seeds", len(seeds)), ("learn_every", learn_every)):
        if value < 1:
            raise SimulationError(f"{name}: {value} is refused; give at least 1")
    if environment.rounds is not None and rounds > environment.rounds:
        raise SimulationError(f"rounds: {rounds} is refused; this environment has {environment.rounds}")
    asked = outcomes(spec)
    if asked and asked != environment.outcomes:
        raise SimulationError(
            f"policy: {spec.name} asks for the outcomes {list(asked)}, this environment has {list(environment.outcomes)}; name those"
        )
    worlds = jax.tree.map(lambda *leaves: np.stack(leaves), *(environment.begin(seed) for seed in seeds))
    program = _program(environment, spec, rounds, min(learn_every, rounds))
    columns = program(worlds, np.asarray(seeds, np.uint32))
    return History(*(np.asarray(column) for column in columns))


@functools.lru_cache(maxsize=16)
def _program(environment: Environment, spec: PolicySpec, rounds: int, block: int) -> Any:
    policy = build(spec)

    def of_seed(world: World, seed: jax.Array) -> History:
        keys = jax.random.wrap_key_data(jnp.stack([jnp.zeros((), jnp.uint32), seed]), impl="threefry2x32")
        step = functools.partial(_block, environment, policy, spec.preselect, world, keys, block)
        start = (policy.init(), _nothing_pending(environment, block))
        _, history = jax.lax.scan(step, start, jnp.arange(-(-rounds // block), dtype=jnp.int32))
        return jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:])[:rounds], history)

    return jax.jit(jax.vmap(of_seed))


def _block(
    environment: Environment,
    policy: Policy,
    most: int,
    world: World,
    keys: jax.Array,
    block: int,
    carry: tuple[Any, _Pending],
    number: jax.Array,
) -> tuple[tuple[Any, _Pending], History]:
    """`block` decisions on one state, then an update from what has arrived by their end."""
    state, pending = carry
    params = policy.prepare(state)
    now = (number + 1) * block
    # A replay has no row behind its last one; the rounds of the last block beyond `rounds` are cut off, and must read something.
    times = number * block + jnp.arange(block, dtype=jnp.int32)
    times = times if environment.rounds is None else jnp.minimum(times, environment.rounds - 1)
    decide = functools.partial(_decision, environment, policy, most, params, world)
    history, rows, due = jax.vmap(decide)(times, jax.vmap(lambda t: jax.random.fold_in(keys, t))(times))
    pending = _queued(pending, rows, due)
    arrived = (pending.due > now - block) & (pending.due <= now)
    batch = pending.rows._replace(weight=jnp.where(arrived, pending.rows.weight, 0.0))
    return (policy.update(state, batch), pending), history


def _decision(
    environment: Environment, policy: Policy, most: int, params: Any, world: World, t: jax.Array, key: jax.Array
) -> tuple[History, Batch, jax.Array]:
    """One round: what happened, the rows it gives (one a slot), and the round by whose end each is known."""
    ask, draw, answer, wait = jax.random.split(key, 4)
    offer = environment.offer(world, t, ask)
    slate = _slate(environment, policy, params, offer, draw, most)
    outcome = environment.respond(world, t, offer, slate.action, answer)
    rows = _rows(offer, slate, outcome, t)
    violated = jnp.zeros((), bool) if outcome.violated is None else outcome.violated
    told = (outcome.counted, outcome.earned, outcome.value, outcome.best, violated)
    history = History(slate.action, rows.action, slate.numerator, outcome.reward, outcome.seen, *told)
    return history, rows, jnp.full(environment.slots, t + 1 + environment.delay(wait), jnp.int32)


def _slate(environment: Environment, policy: Policy, params: Any, offer: Offer, key: jax.Array, most: int) -> Slate:
    """A slate drawn as `programs` draws it; `most`: candidates that it is drawn from, at most."""
    context, size = offer.context.astype(jnp.float64), jnp.asarray(environment.slots, jnp.int32)
    listed = shortlist(policy, params, context, offer.candidates, key, eligible=offer.eligible, most=most)
    slate = sample_slate(policy, listed.scores, listed.mask, jax.random.key_data(key), size, slots=environment.slots)
    return slate._replace(action=in_request(listed, slate.action))


def _rows(offer: Offer, slate: Slate, outcome: Outcome, t: jax.Array) -> Batch:
    """Training rows of a round, one a slot; what was not seen has weight 0."""
    slots = slate.action.shape[0]
    shown = jnp.maximum(slate.action, 0)
    present = (slate.action >= 0) & outcome.seen & outcome.counted
    return Batch(
        context=jnp.broadcast_to(offer.context.astype(jnp.float64), (slots, offer.context.shape[0])),
        action=offer.candidates.action[shown],
        features=offer.candidates.features[shown],
        reward=jnp.where(present, outcome.reward, 0.0),
        weight=jnp.where(present, 1.0, 0.0),
        time_s=jnp.full(slots, t, jnp.float64),
        slot=jnp.arange(slots, dtype=jnp.int32),
        propensity=jnp.where(slate.action >= 0, slate.numerator.astype(jnp.float64) / DENOMINATOR, 1.0),
        outcomes=jnp.zeros((slots, 0), jnp.float64) if outcome.outcomes is None else outcome.outcomes,
    )


def _nothing_pending(environment: Environment, block: int) -> _Pending:
    """A queue as long as the longest delay and a block, with no rows in it."""
    n, dims = (environment.longest_delay + block) * environment.slots, environment.dims
    zeros = jnp.zeros(n, jnp.float64)
    rows = Batch(
        context=jnp.zeros((n, dims.context), jnp.float64),
        action=jnp.zeros(n, jnp.int32),
        features=jnp.zeros((n, dims.features), jnp.float64),
        reward=zeros,
        weight=zeros,
        time_s=zeros,
        slot=jnp.zeros(n, jnp.int32),
        propensity=jnp.ones(n, jnp.float64),
        outcomes=jnp.zeros((n, len(environment.outcomes)), jnp.float64),
    )
    return _Pending(rows=rows, due=jnp.zeros(n, jnp.int32))


def _queued(pending: _Pending, rows: Batch, due: jax.Array) -> _Pending:
    """The queue with the rows of a block, [block, L], behind it and as many gone from its front."""

    def push(old: jax.Array, new: jax.Array) -> jax.Array:
        new = new.reshape(new.shape[0] * new.shape[1], *new.shape[2:])
        return jnp.concatenate([old[new.shape[0] :], new])

    return jax.tree.map(push, pending, _Pending(rows=rows, due=due))
