"""The compiled programs of a policy: decide, and the propensities of given slates, batched over requests.

Params are arguments, so snapshots of one shape share an executable. Requests are padded to a shape bucket, by batch and by number of
candidates; a server warms its buckets before it is ready, and nothing compiles afterwards.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.catalog import PolicySpec, build
from bandits.marginals import Marginals, shortlist_marginals
from bandits.packed import Row, RowLayout, answer_columns, answer_words, pack, unpack
from bandits.policy import Batch, Candidates, Policy
from bandits.preselection import Shortlist, in_request, in_shortlist, shortlist
from bandits.requests import Requests
from bandits.slates import ABSENT, sample_slate, slate_numerators

__all__ = [
    "BATCH_BUCKETS",
    "OFFLINE_BUCKETS",
    "AnswerRows",
    "Outputs",
    "answer_rows",
    "candidate_bucket",
    "compilations",
    "empty_rows",
    "run_decide",
    "run_decide_rows",
    "run_marginals",
    "run_numerators",
    "run_prepare",
    "update_program",
]

# Requests a call; a batch of another size is cut into such.
BATCH_BUCKETS = (1, 8, 32, 64, 256)
# What a call costs beside its rows, in rows: measured 40 us and what Python does around it, and 6 us a row.
_CALL_ROWS = 8
# Where nobody waits for a single answer: one program for logs of every length, since compiling another costs a second or two.
OFFLINE_BUCKETS = BATCH_BUCKETS[-1:]
_FEWEST_CANDIDATES = 8
# XLA copies an argument of so many bytes in a thread of its own, and runs the program there too (on one core a tenth of a batch of 64, and
# two turns of the scheduler), unless it begins at a multiple of 64 bytes: then it is read where it lies. Smaller ones it copies faster.
_COPIED, _ALIGNED = 100 << 10, 64
# XLA's default on a CPU runs parts of a program side by side on threads of its own. That pays for large parts; here a hop to another thread
# costs more than all the rest of a decision (measured, one decision: 161 us with it, 76 in one thread). Of a batch of 256 it takes a tenth
# off where a second core is idle, and nothing where none is.
_ONE_THREAD = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class AnswerRows(NamedTuple):
    """Answers as the program gives them: `words` u32[n, 6 L + 2], rows as `bandits.packed` lays them out. `bucket_batch` i32[n]: the
    compiled batch that each went through."""

    words: np.ndarray
    bucket_batch: np.ndarray


class Outputs(NamedTuple):
    """Per request and slot: `slates` i32[n, L] index into the candidates, `numerators` u32[n, L], `mean` and `scale` f64[n, L].

    `bucket_batch` i32[n] and `bucket_candidates` say which compiled shape each row went through. `sound` bool[n]: context and features
    are normal numbers or zero; of a row that is not sound nothing is to be believed.
    """

    slates: np.ndarray
    numerators: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    bucket_batch: np.ndarray
    bucket_candidates: int
    sound: np.ndarray


def candidate_bucket(candidates: int) -> int:
    """The padded number of candidates: 8, 12, 16, ..., 32, 40, 48, 56, 64, 80, ...: four to a power of two.

    A decision costs by its padded candidates: of more than 12 a fifth is padding at most.
    """
    step = max((1 << (candidates - 1).bit_length()) // 8, 4)
    return max(-(-candidates // step) * step, _FEWEST_CANDIDATES)


def run_decide(spec: PolicySpec, params: Any, requests: Requests, *, slots: int, buckets: Sequence[int] = BATCH_BUCKETS) -> Outputs:
    """Slates drawn for all requests, of at most `slots` slots each."""
    layout = _layout(requests)
    return run_decide_rows(spec, params, pack(requests, layout), layout=layout, slots=slots, buckets=buckets)


def run_decide_rows(
    spec: PolicySpec, params: Any, rows: np.ndarray, *, layout: RowLayout, slots: int, buckets: Sequence[int] = BATCH_BUCKETS
) -> Outputs:
    """Slates drawn for all requests, of at most `slots` slots each; `rows` u32[n, words] as `bandits.packed` lays them out."""
    if not len(rows):
        return _nothing(slots, layout.width)
    return _outputs(answer_rows(spec, params, rows, layout=layout, slots=slots, buckets=buckets), layout.width)


def answer_rows(
    spec: PolicySpec, params: Any, rows: np.ndarray, *, layout: RowLayout, slots: int, buckets: Sequence[int] = BATCH_BUCKETS
) -> AnswerRows:
    """As `run_decide_rows`, for one row or more, with the answers as rows too."""
    return _run(_decide_program(spec, layout, slots), params, rows, None, buckets)


def empty_rows(n: int, layout: RowLayout) -> np.ndarray:
    """Rows to be filled, u32[n, words], where a program reads them without a copy."""
    return _aligned(4 * n * layout.words).view(np.uint32).reshape(n, layout.words)


def run_numerators(spec: PolicySpec, params: Any, requests: Requests, slates: np.ndarray) -> Outputs:
    """The given slates, i32[n, L], with their conditional propensities under the policy."""
    layout, slots = _layout(requests), slates.shape[1]
    if not requests.n_rows:
        return _nothing(slots, layout.width)
    answers = _run(_numerators_program(spec, layout, slots), params, pack(requests, layout), slates, OFFLINE_BUCKETS)
    return _outputs(answers, layout.width)


def run_marginals(spec: PolicySpec, params: Any, requests: Requests, *, slots: int, walks: int) -> Marginals:
    """Marginal propensities of slates of `slots` slots, [n, ...] by request; compiled for every shape anew, for it is no serving path."""
    columns = (requests.context, requests.actions, requests.features, requests.scores, requests.eligible, requests.draw_key)
    return Marginals(*map(np.asarray, _marginals_program(spec, slots, walks)(params, *columns)))


def run_prepare(spec: PolicySpec, state: Any) -> Any:
    """The params of a state, compiled once a spec."""
    return _prepare_program(spec)(state)


def compilations() -> int:
    """How many programs XLA has compiled in this process."""
    return _counter.count


def _layout(requests: Requests) -> RowLayout:
    return RowLayout(requests.context.shape[1], candidate_bucket(requests.actions.shape[1]), requests.features.shape[2])


def _run(program: Callable[..., Any], params: Any, rows: np.ndarray, slates: np.ndarray | None, allowed: Sequence[int]) -> AnswerRows:
    parts, buckets = [], []
    for start, stop, bucket in _chunks(len(rows), tuple(allowed)):
        given = () if slates is None else (_fitted(slates[start:stop], bucket, fill=ABSENT),)
        answers = np.asarray(program(params, _fitted(rows[start:stop], bucket), *given))
        parts.append(answers[: stop - start])
        buckets.append(_column(bucket)[: stop - start])
    # Of one part nothing is copied: that is every small batch, and joining costs it a tenth.
    return AnswerRows(parts[0], buckets[0]) if len(parts) == 1 else AnswerRows(np.concatenate(parts), np.concatenate(buckets))


@functools.lru_cache(maxsize=len(BATCH_BUCKETS))
def _column(bucket: int) -> np.ndarray:
    """The column of a batch that fills its bucket, i32[bucket]; not to be written to."""
    column = np.full(bucket, bucket, np.int32)
    column.flags.writeable = False
    return column


def _outputs(answers: AnswerRows, width: int) -> Outputs:
    slates, numerators, mean, scale, sound = answer_columns(answers.words)
    return Outputs(slates, numerators, mean, scale, answers.bucket_batch, width, sound)


def _chunks(n: int, allowed: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(start, stop, bucket) of the calls for n requests, the largest first."""
    largest = allowed[-1]
    start = n // largest * largest
    found = [(at, at + largest, largest) for at in range(0, start, largest)]
    for bucket in _cheapest(n - start, allowed)[1]:
        found.append((start, min(n, start + bucket), bucket))
        start += bucket
    return found


# All that are ever asked for: fewer than the largest bucket, by the buckets that are still allowed.
@functools.lru_cache(maxsize=4096)
def _cheapest(n: int, allowed: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Cost in rows, and buckets, the largest first, of the cheapest calls for n requests; of equal costs the one with fewer calls."""
    if n == 0:
        return 0, ()
    found = []
    for bucket in allowed:
        cost, behind = _cheapest(max(n - bucket, 0), tuple(size for size in allowed if size <= bucket))
        found.append((_CALL_ROWS + bucket + cost, 1 + len(behind), (bucket, *behind)))
    cost, _, buckets = min(found)
    return cost, buckets


def _fitted(column: np.ndarray, rows: int, *, fill: int = 0) -> np.ndarray:
    """The column in an array of `rows` rows that XLA can take as it is. (numpy's own `pad` costs ten times as much.)"""
    if len(column) == rows and (column.nbytes < _COPIED or _address(column) % _ALIGNED == 0):
        return column
    fitted = _aligned(rows * column[0].nbytes).view(column.dtype).reshape(rows, *column.shape[1:])
    fitted[: len(column)] = column
    fitted[len(column) :] = fill
    return fitted


def _aligned(size: int) -> np.ndarray:
    memory = np.empty(size + _ALIGNED, np.uint8)
    start = -_address(memory) % _ALIGNED
    return memory[start : start + size]


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _nothing(slots: int, width: int) -> Outputs:
    empty = np.zeros((0, slots))
    rows = np.zeros(0, np.int32)
    return Outputs(empty.astype(np.int32), empty.astype(np.uint32), empty, empty, rows, width, rows.astype(bool))


@functools.lru_cache(maxsize=64)
def update_program(spec: PolicySpec) -> Callable[[Any, Batch], Any]:
    """The policy's `update`, compiled once a spec and size of batch."""
    return jax.jit(build(spec).update)


@functools.lru_cache(maxsize=64)
def _prepare_program(spec: PolicySpec) -> Any:
    return jax.jit(build(spec).prepare)


@functools.lru_cache(maxsize=256)
def _decide_program(spec: PolicySpec, layout: RowLayout, slots: int) -> Any:
    policy = build(spec)

    def decide(params: Any, row: Any) -> Any:
        request = unpack(row, layout)
        listed = _listed(spec, policy, params, request)
        slate = sample_slate(policy, listed.scores, listed.mask, request.draw_key, request.slots, slots=slots)
        return _answer(listed, in_request(listed, slate.action), slate.numerator, request)

    return jax.jit(jax.vmap(decide, in_axes=(None, 0)), compiler_options=_compiler_options())


@functools.lru_cache(maxsize=256)
def _numerators_program(spec: PolicySpec, layout: RowLayout, slots: int) -> Any:
    policy = build(spec)

    def numerators(params: Any, row: Any, slate: Any) -> Any:
        request = unpack(row, layout)
        listed = _listed(spec, policy, params, request)
        return _answer(listed, slate, slate_numerators(policy, listed.scores, listed.mask, in_shortlist(listed, slate)), request)

    return jax.jit(jax.vmap(numerators, in_axes=(None, 0, 0)))


@functools.lru_cache(maxsize=64)
def _marginals_program(spec: PolicySpec, slots: int, walks: int) -> Any:
    policy = build(spec)

    def of_request(params: Any, context: Any, actions: Any, features: Any, ranked: Any, eligible: Any, key: Any) -> Marginals:
        listed = _shortlist(spec, policy, params, context, Candidates(actions, features, ranked), key, eligible)
        return shortlist_marginals(policy, listed, key, slots=slots, walks=walks)

    return jax.jit(jax.vmap(of_request, in_axes=(None, 0, 0, 0, 0, 0, 0)))


def _shortlist(spec: PolicySpec, policy: Policy, params: Any, context: Any, candidates: Candidates, key: Any, eligible: Any) -> Shortlist:
    typed_key = jax.random.wrap_key_data(key, impl="threefry2x32")
    candidates = candidates._replace(features=candidates.features.astype(jnp.float64))
    context = context.astype(jnp.float64)
    return shortlist(policy, params, context, candidates, typed_key, eligible=eligible, most=spec.preselect)


def _listed(spec: PolicySpec, policy: Policy, params: Any, row: Row) -> Shortlist:
    candidates = Candidates(row.actions, row.features, row.scores)
    return _shortlist(spec, policy, params, row.context, candidates, row.draw_key, row.eligible)


def _answer(listed: Shortlist, slate: jax.Array, numerators: jax.Array, row: Row) -> jax.Array:
    chosen = jnp.maximum(slate, 0)
    return answer_words(slate, numerators, listed.mean[chosen], listed.scale[chosen], row.sound)


@functools.lru_cache(maxsize=1)
def _compiler_options() -> dict[str, Any]:
    """_ONE_THREAD, where this release of XLA knows it; the programs are right without, and slower alone."""
    try:
        jax.jit(lambda: 0, compiler_options=_ONE_THREAD).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _ONE_THREAD


class _CompilationCounter:
    """Counts XLA's compile events of this process."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_s: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1


_counter = _CompilationCounter()
