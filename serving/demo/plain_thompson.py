"""Plain Thompson sampling on the demo's requests: what a policy that heeds one number would have chosen. Computes; keys come in."""

import itertools
from collections.abc import Sequence

import numpy as np

from bandits.catalog import PolicySpec, build
from bandits.policy import Batch, Dims
from bandits.programs import run_decide, run_prepare, update_program
from bandits.requests import Requests
from bandits.training import absorb

__all__ = ["plain_thompson"]

# Share of the requests before the first learning that go to the first champion's action; the others are drawn evenly.
_FIRST_SHARE, _FLOOR = 0.7, 0.05


def plain_thompson(contexts: np.ndarray, expected: np.ndarray, *, learns_at: Sequence[int], first: int, seed: int) -> np.ndarray:
    """Actions i32[n] for contexts f32[n, d], where `expected` f64[n, A] is what each would earn (learned with noise of 0.1).

    It begins as the served policy did, mostly with the action `first`, and learns at the places `learns_at`, ascending, from all before.
    """
    rng, (n, actions) = np.random.default_rng(seed), expected.shape
    spec = PolicySpec.of("linear_thompson", {}, floor=_FLOOR, dims=Dims(actions=actions, context=contexts.shape[1], features=0))
    chosen = np.where(rng.random(n) < _FIRST_SHARE, first, rng.integers(0, actions, n)).astype(np.int32)
    keys = rng.integers(0, 1 << 32, (n, 2), dtype=np.uint64).astype(np.uint32)
    noise = np.asarray(rng.normal(scale=0.1, size=n))
    state = build(spec).init()
    begun = 0
    for start, stop in itertools.pairwise([*learns_at, n]):
        rows = slice(begun, start)
        state = absorb(update_program(spec), state, _rows(contexts[rows], chosen[rows], expected[rows], noise[rows]))
        requests = Requests.of(contexts[start:stop], np.arange(actions), draw_key=keys[start:stop])
        chosen[start:stop] = run_decide(spec, run_prepare(spec, state), requests, slots=1).slates[:, 0]
        begun = start
    return chosen


def _rows(contexts: np.ndarray, chosen: np.ndarray, expected: np.ndarray, noise: np.ndarray) -> Batch:
    return Batch.of(contexts, chosen, expected[np.arange(len(chosen)), chosen] + noise)
