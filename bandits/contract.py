"""The contract of `bandits.policy` as checks that any policy can be put under.

Each check takes a catalog entry and raises AssertionError, in a full sentence, where the entry breaks the contract. Our own catalog
and a stranger's package are tested by the same functions:

    @pytest.mark.parametrize("check", contract.checks(ENTRY), ids=lambda check: check.__name__)
    def test_it_keeps_the_contract(check):
        check(ENTRY)

Compiled functions are shared by the checks of one entry. The entry's default settings are what is checked.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.catalog import Entry, plain
from bandits.policy import Batch, Candidates, Dims, Policy
from bandits.programs import compilations
from bandits.wrappers.floor import floor

__all__ = ["DIMS", "EVERY_POLICY", "EXACT_POLICIES", "Check", "check_policy", "checks"]

Check = Callable[[Entry], None]

#: Sizes on which policies are checked.
DIMS = Dims(actions=5, context=3, features=2)
_PARAMETERS = {
    "init": [],
    "update": ["state", "batch"],
    "prepare": ["state"],
    "score": ["params", "context", "candidates", "key"],
    "choose": ["scores", "mask"],
}
_WIDTH = 7
_FLOORS = (0.0, 0.05)


class _Compiled(NamedTuple):
    """A policy with its functions compiled; `choose_all` takes many masks."""

    plain: Policy
    init: Any
    update: Any
    prepare: Any
    score: Any
    choose: Any
    choose_all: Any


def checks(entry: Entry) -> tuple[Check, ...]:
    """The checks that apply to an entry: those of every policy, and those of exact updates where it claims them."""
    return (*EVERY_POLICY, *(EXACT_POLICIES if entry.exact_update else ()))


def check_policy(entry: Entry) -> None:
    """Runs every check that applies. Raises AssertionError at the first that fails."""
    for check in checks(entry):
        check(entry)


def check_parameter_names(entry: Entry) -> None:
    """The functions have the parameters that the contract names, in its order."""
    policy = plain(entry, DIMS)
    for name, wanted in {**_PARAMETERS, "merge": ["left", "right"]}.items():
        function = getattr(policy, name)
        if function is not None:
            found = list(inspect.signature(function).parameters)
            _require(found == wanted, f"{name} has the parameters {found}, the contract names {wanted}; rename them")


def check_strict_promotion(entry: Entry) -> None:
    """Nothing relies on implicit promotion of dtypes or ranks, which differs between configurations of JAX."""
    policy = floor(plain(entry, DIMS), _FLOORS[1])

    def whole() -> jax.Array:
        state = policy.update(policy.init(), jax.tree.map(jnp.asarray, _batch(4)))
        scores = policy.score(policy.prepare(state), jnp.zeros(3, jnp.float64), _candidates(), jax.random.key(0))
        return policy.choose(scores, jnp.ones(_WIDTH, bool))

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        try:
            jax.eval_shape(whole)
        except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
            raise AssertionError(f"the policy does not trace under strict promotion ({error}); convert dtypes and shapes openly") from error


def check_fixed_trees(entry: Entry) -> None:
    """Structure, shapes and dtypes of state, params and scores are those of `init` for ever, and all numbers finite."""
    for policy in _each(entry):
        before, after = policy.init(), policy.update(policy.init(), _batch(32))
        _require_fixed("state", before, after)
        _require_fixed("params", policy.prepare(before), policy.prepare(after))
        _require_fixed("scores", _scores(policy, before), _scores(policy, after))


def check_scores(entry: Entry) -> None:
    """`scores` has a finite mean and a scale >= 0, float64, one a candidate; every other leaf has first axis K or knows no K."""
    for policy in _each(entry):
        for state in (policy.init(), policy.update(policy.init(), _batch(64))):
            found = _scores(policy, state)
            shapes = (found.mean.shape, found.scale.shape, found.mean.dtype, found.scale.dtype)
            wanted = ((_WIDTH,), (_WIDTH,), jnp.float64, jnp.float64)
            _require(shapes == wanted, f"mean and scale are {shapes}; give f64[K] each")
            _require(bool(np.all(found.scale >= 0.0)), f"a scale is negative: {np.min(found.scale)}; it is a standard deviation")


def check_choose_is_a_distribution(entry: Entry) -> None:
    """`choose` is >= 0, zero outside the mask and sums to one over it, for every mask, before and after learning."""
    masks = np.array([[bits >> index & 1 for index in range(_WIDTH)] for bits in range(1 << _WIDTH)], bool)
    for policy in _each(entry):
        for rows in (0, 64):
            found = _scores(policy, policy.update(policy.init(), _batch(rows)))
            p = np.asarray(policy.choose_all(found, masks))
            _require(p.shape == masks.shape and p.dtype == np.float64, f"choose gives {p.dtype}{p.shape[1:]}; give f64[K]")
            _require(bool(np.all(p >= 0.0)), f"choose gives a negative probability, {p.min()}")
            _require(bool(np.all(p[~masks] == 0.0)), "choose gives a candidate outside the mask some probability; give it exactly 0")
            off = float(np.abs(p.sum(axis=1) - masks.any(axis=1)).max())
            _require(off <= 1e-12, f"choose sums to one only within {off:.1e} over the mask; divide by the sum")


def check_floor_holds(entry: Entry) -> None:
    """With a floor of 0.2, each of 6 eligible candidates has at least 0.2 / 6, however much was learned."""
    policy = _compiled(entry, 0.2)
    far = functools.reduce(policy.update, [_batch(64, seed=seed) for seed in range(4)], policy.init())
    mask = np.arange(_WIDTH) != 2
    least = float(np.asarray(policy.choose(_scores(policy, far), mask))[mask].min())
    _require(least >= 0.2 / 6 - 1e-15, f"a candidate has {least} under a floor of 0.2 over 6; choose must be a distribution")


def check_empty_update(entry: Entry) -> None:
    """An update with no rows changes nothing."""
    policy = _compiled(entry, _FLOORS[1])
    state = policy.update(policy.init(), _batch(32))
    _require_same(policy.update(state, _batch(0)), state, "an update with no rows changes the state")
    _require_same(policy.update(policy.init(), _batch(0)), policy.init(), "an update with no rows changes the prior")


def check_padding(entry: Entry) -> None:
    """Rows of weight 0 change nothing."""
    policy = _compiled(entry, _FLOORS[1])
    padded = policy.update(policy.init(), _joined(_batch(32), _batch(32, seed=9, weight=0.0)))
    _require_same(padded, policy.update(policy.init(), _batch(32)), "rows of weight 0 change the state", rtol=1e-15)


def check_vmap(entry: Entry) -> None:
    """`vmap` gives what one request after the other gives, within 1e-6: a policy may take products in float32, summed by shape."""
    for policy in _each(entry):
        params = policy.prepare(policy.update(policy.init(), _batch(64)))
        contexts, masks = np.random.default_rng(1).normal(size=(6, 3)), np.random.default_rng(2).random((6, _WIDTH)) < 0.7
        keys, many = jax.random.split(jax.random.key(0), 6), [_candidates(seed=seed) for seed in range(6)]
        stacked = Candidates(*(np.stack(columns) for columns in zip(*many, strict=True)))
        together = jax.vmap(policy.score, in_axes=(None, 0, 0, 0))(params, contexts, stacked, keys)
        p = jax.vmap(policy.choose)(together, masks)
        for row in range(6):
            alone = policy.score(params, contexts[row], many[row], keys[row])
            said = f"request {row} of a batch gets other scores than alone"
            _require_same(jax.tree.map(lambda leaf, row=row: leaf[row], together), alone, said, rtol=1e-6)
            off = float(np.abs(p[row] - policy.choose(alone, masks[row])).max())
            _require(off <= 1e-6, f"request {row} of a batch gets probabilities that are off by {off:.1e} from those it gets alone")


def check_no_second_compilation(entry: Entry) -> None:
    """A second call, with other numbers of the same shapes, compiles nothing."""
    policy = _compiled(entry, _FLOORS[1])

    def once(seed: int) -> None:
        state = policy.update(policy.update(policy.init(), _batch(32, seed=seed)), _batch(32, seed=seed + 1))
        policy.choose(_scores(policy, state, seed=seed), np.ones(_WIDTH, bool)).block_until_ready()

    once(1)
    before = compilations()
    once(2)
    _require(compilations() == before, "a second call with the same shapes compiles again; branch on no value, keep dtypes fixed")


def check_cold_action(entry: Entry) -> None:
    """The cold action stands where an action of the table without rows stands: before the first update, and after others learned."""
    policy = _compiled(entry, _FLOORS[1])
    cold = Candidates(np.array([DIMS.actions, DIMS.actions - 1, 0], np.int32), np.zeros((3, DIMS.features)), np.zeros(3))
    context = np.array([0.5, -1.0, 2.0])
    for state in (policy.init(), policy.update(policy.init(), _batch(64))):
        found = policy.score(policy.prepare(state), context, cold, jax.random.key(0))
        pairs = [(leaf[0], leaf[1]) for leaf in map(np.asarray, (found.mean, found.scale))]
        same = all(unknown == unseen for unknown, unseen in pairs)
        _require(same, f"mean and scale of (unknown, never seen) actions are {pairs}; both stand at the prior, so make them equal")
    at_first = policy.score(policy.prepare(policy.init()), context, cold, jax.random.key(0))
    same = all(np.all(np.asarray(leaf) == np.asarray(leaf)[0]) for leaf in (at_first.mean, at_first.scale))
    _require(same, "before any row the actions differ in mean or scale though nothing tells them apart; start all from one prior")


def check_batches_commute(entry: Entry) -> None:
    """Two batches in either order give one state, within 1e-12."""
    policy = _compiled(entry, _FLOORS[0])
    one, other = _rough(32, seed=1), _rough(32, seed=2)
    there, back = (policy.update(policy.update(policy.init(), a), b) for a, b in ((one, other), (other, one)))
    _require_same(there, back, "two batches give another state in the other order", rtol=1e-12)


def check_order_of_rows(entry: Entry) -> None:
    """The order of the rows within a batch does not matter, within 1e-12."""
    policy = _compiled(entry, _FLOORS[0])
    batch, order = _rough(64, seed=3), np.random.default_rng(0).permutation(64)
    shuffled = policy.update(policy.init(), Batch(*(column[order] for column in batch)))
    _require_same(shuffled, policy.update(policy.init(), batch), "the order of rows changes the state", rtol=1e-12)


def check_merge(entry: Entry) -> None:
    """`merge` of two states is the state of both states' rows, within 1e-12, either way round; the prior merges as nothing."""
    policy = _compiled(entry, _FLOORS[0])
    merge = policy.plain.merge
    _require(merge is not None, "exact_update is true but merge is None; give the policy a merge, or say exact_update=False")
    assert merge is not None
    left, right = (policy.update(policy.init(), _rough(32, seed=seed)) for seed in (4, 5))
    both = policy.update(left, _rough(32, seed=5))
    _require_same(merge(left, right), both, "merge is not the state of both states' rows", rtol=1e-12)
    _require_same(merge(right, left), both, "merge depends on which state stands left", rtol=1e-12)
    _require_same(merge(policy.init(), left), left, "merging the prior changes a state", rtol=1e-15)


def check_a_row_is_taken_back(entry: Entry) -> None:
    """A row of weight -1 takes the row back: to the bit for numbers whose sums do not round."""
    policy = _compiled(entry, _FLOORS[0])
    kept, mistaken = _batch(32, seed=6), _batch(32, seed=7)
    back = policy.update(policy.update(policy.update(policy.init(), kept), mistaken), mistaken._replace(weight=-mistaken.weight))
    _require_same(back, policy.update(policy.init(), kept), "rows of weight -1 do not take the rows back")


def check_a_revised_reward(entry: Entry) -> None:
    """The old row with weight -1 and the new one with 1 give the state that learned the revised reward at once, within 1e-12."""
    policy = _compiled(entry, _FLOORS[0])
    first = _rough(32, seed=8)
    revised = first._replace(reward=first.reward + 1.5)
    turned = policy.update(policy.update(policy.init(), first), _joined(first._replace(weight=-first.weight), revised))
    _require_same(turned, policy.update(policy.init(), revised), "a revised reward does not replace the old one exactly", rtol=1e-12)


#: What every policy is checked for.
EVERY_POLICY: tuple[Check, ...] = (
    check_parameter_names,
    check_strict_promotion,
    check_fixed_trees,
    check_scores,
    check_choose_is_a_distribution,
    check_floor_holds,
    check_empty_update,
    check_padding,
    check_vmap,
    check_no_second_compilation,
    check_cold_action,
)
#: What a policy is checked for besides whose entry says `exact_update`.
EXACT_POLICIES: tuple[Check, ...] = (
    check_batches_commute,
    check_order_of_rows,
    check_merge,
    check_a_row_is_taken_back,
    check_a_revised_reward,
)


@functools.cache
def _bare(entry: Entry) -> Policy:
    """The policy with all but its choice compiled, once for every floor."""
    policy = plain(entry, DIMS)
    return policy._replace(update=jax.jit(policy.update), prepare=jax.jit(policy.prepare), score=jax.jit(policy.score))


@functools.cache
def _compiled(entry: Entry, epsilon: float) -> _Compiled:
    policy = floor(_bare(entry), epsilon)
    choose, choose_all = jax.jit(policy.choose), jax.jit(jax.vmap(policy.choose, in_axes=(None, 0)))
    return _Compiled(plain(entry, DIMS), policy.init, policy.update, policy.prepare, policy.score, choose, choose_all)


def _each(entry: Entry) -> list[_Compiled]:
    """The policy bare, and with a floor."""
    return [_compiled(entry, epsilon) for epsilon in _FLOORS]


def _batch(n: int, *, seed: int = 0, weight: float = 1.0) -> Batch:
    """Rows whose numbers are small multiples of 1/8, so that sums of them are exact; the table's last action never comes."""
    rng = np.random.default_rng(seed)
    eighths = rng.integers(-32, 33, (n, 8)) / 8.0
    return Batch.of(
        eighths[:, :3], rng.integers(0, DIMS.actions - 1, n), eighths[:, 5], features=eighths[:, 3:5], weight=np.full(n, weight)
    )


def _rough(n: int, *, seed: int) -> Batch:
    """Rows whose features have very different sizes, at different times and slots."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 6)) * [1.0, 100.0, 1e-3, 1.0, 10.0, 1.0]
    actions, slots, times = rng.integers(0, DIMS.actions, n), rng.integers(0, 3, n), 1.7e9 + rng.integers(0, 10**6, n)
    probabilities = rng.uniform(0.05, 1.0, n)
    return Batch.of(
        numbers[:, :3], actions, numbers[:, 3], features=numbers[:, 4:], time_s=times, slot=slots.astype(np.int32), propensity=probabilities
    )


def _joined(*batches: Batch) -> Batch:
    return Batch(*(np.concatenate(columns) for columns in zip(*batches, strict=True)))


def _candidates(*, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    action = rng.integers(0, DIMS.actions + 1, _WIDTH).astype(np.int32)
    return Candidates(action, rng.normal(size=(_WIDTH, DIMS.features)), rng.normal(size=_WIDTH))


def _scores(policy: _Compiled, state: Any, *, seed: int = 0) -> Any:
    context = np.random.default_rng(seed).normal(size=3)
    return policy.score(policy.prepare(state), context, _candidates(seed=seed), jax.random.key(seed))


def _shapes(tree: Any) -> list[tuple[Any, Any]]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _require(holds: bool, said: str) -> None:
    if not holds:
        raise AssertionError(said)


def _require_fixed(name: str, before: Any, after: Any) -> None:
    _require(jax.tree.structure(before) == jax.tree.structure(after), f"the {name} has another tree after an update; keep that of init")
    _require(_shapes(before) == _shapes(after), f"the {name} has shapes {_shapes(after)} after an update, {_shapes(before)} before")
    finite = all(np.all(np.isfinite(leaf)) for tree in (before, after) for leaf in jax.tree.leaves(tree))
    _require(finite, f"the {name} holds a number that is not finite; snapshots refuse such")


def _require_same(one: Any, other: Any, said: str, *, rtol: float = 0.0) -> None:
    """Same tree, shapes and dtypes, same numbers within `rtol` of the largest of each leaf."""
    _require(jax.tree.structure(one) == jax.tree.structure(other), f"{said}: the trees differ")
    for a, b in zip(map(np.asarray, jax.tree.leaves(one)), map(np.asarray, jax.tree.leaves(other)), strict=True):
        _require(a.shape == b.shape and a.dtype == b.dtype, f"{said}: {a.dtype}{a.shape} against {b.dtype}{b.shape}")
        off, allowed = float(np.abs(a - b).max(initial=0.0)), rtol * float(np.abs(b).max(initial=0.0))
        _require(off <= allowed, f"{said}: a number is off by {off:.1e}, allowed is {allowed:.1e}")
