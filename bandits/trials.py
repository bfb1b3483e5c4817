"""A constrained policy tried with other numbers: it learns from rows, and says what it would have given to logged slates. Pure.

The numbers are arguments of the compiled programs, so all trials of a task share them. What is learned and drawn is the library's own: the
same update, score, choice, floor, wrappers and slate walk that serve.
"""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.catalog import PolicySpec, find, parsed, plain
from bandits.policies.constrained import ConstrainedSettings, Numbers, constrained_by
from bandits.policy import Batch as TrainingRows
from bandits.policy import Candidates, Policy
from bandits.requests import Requests
from bandits.slates import slate_numerators
from bandits.training import absorb
from bandits.wrappers import declared
from bandits.wrappers.floor import floor

__all__ = ["Trials"]

# Requests a call: one shape for all.
_CHUNK = 1024


class _Programs(NamedTuple):
    """Compiled functions of the numbers: `update(numbers, state, rows)`, `prepare(numbers, state)`, `numerators(numbers, params, ...)`."""

    update: Callable[[Numbers, Any, TrainingRows], Any]
    prepare: Callable[[Numbers, Any], Any]
    numerators: Callable[..., jax.Array]


class Trials:
    """Trains and scores a constrained policy with many numbers. `state` is what each of them starts from."""

    def __init__(self, spec: PolicySpec, *, state: Any, training: TrainingRows) -> None:
        self._programs = _programs(spec)
        self._state, self._training = state, training

    def numerators(self, numbers: Numbers, requests: Requests, slates: np.ndarray) -> np.ndarray:
        """Conditional propensities, out of 2^31, u32[n, L], of slates i32[n, L] under the policy that has learned with these numbers."""
        update = functools.partial(self._programs.update, numbers)
        params = self._programs.prepare(numbers, absorb(update, self._state, self._training))
        parts = [self._part(numbers, params, requests, slates, start) for start in range(0, len(slates), _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(slates.shape, np.uint32)

    def _part(self, numbers: Numbers, params: Any, requests: Requests, slates: np.ndarray, start: int) -> np.ndarray:
        columns = [column[start : start + _CHUNK] for column in (*requests, slates)]
        rows = len(columns[0])
        padded = [np.pad(column, [(0, _CHUNK - rows), *[(0, 0)] * (column.ndim - 1)]) for column in columns]
        return np.asarray(self._programs.numerators(numbers, params, *padded))[:rows]


def _policy(spec: PolicySpec, numbers: Numbers) -> Policy:
    """The policy of a spec as `bandits.catalog.build` makes it, but for its numbers."""
    settings = parsed(spec.name, json.loads(spec.settings))
    assert isinstance(settings, ConstrainedSettings)

    def other(name: str, given: Any) -> Policy:
        return plain(find(name), spec.dims, given)

    bare = constrained_by(spec.dims, settings, numbers, policies=other)
    return floor(declared.wrapped(bare, spec.wrappers, declared.Around(spec.dims, other)), spec.floor)


@functools.lru_cache(maxsize=8)
def _programs(spec: PolicySpec) -> _Programs:
    policy = functools.partial(_policy, spec)

    def update(numbers: Numbers, state: Any, rows: TrainingRows) -> Any:
        return policy(numbers).update(state, rows)

    def prepare(numbers: Numbers, state: Any) -> Any:
        return policy(numbers).prepare(state)

    def numerators(numbers: Numbers, params: Any, *columns: jax.Array) -> jax.Array:
        return jax.vmap(functools.partial(_of_request, policy(numbers), params))(*columns)

    return _Programs(jax.jit(update), jax.jit(prepare), jax.jit(numerators))


def _of_request(
    policy: Policy,
    params: Any,
    context: jax.Array,
    actions: jax.Array,
    features: jax.Array,
    ranked: jax.Array,
    eligible: jax.Array,
    size: jax.Array,
    key: jax.Array,
    slate: jax.Array,
) -> jax.Array:
    candidates = Candidates(actions, features.astype(jnp.float64), ranked)
    context = context.astype(jnp.float64)
    mask = eligible if policy.eligible is None else policy.eligible(context, candidates, eligible)
    scores = policy.score(params, context, candidates, jax.random.wrap_key_data(key, impl="threefry2x32"))
    return slate_numerators(policy, scores, mask, slate)
