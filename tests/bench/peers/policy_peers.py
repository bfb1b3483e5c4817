"""The peers' side of the policy benchmark, run by the interpreter of their own environment: one request a line in, one answer out.

A request is `{"peer": ..., "task": "version" | "reward" | "decide" | "update", ...}` with arrays in an .npz file; the answer holds a
`value`, or an `error`. Imports only what the peer needs, so that a peer that cannot be installed takes none of the others with it.
"""

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from answering import answer_requests

# Best of a sweep on the first shuffle of digits and segment: squarecb's gamma_scale {10, 100, 1000} x learning rate {0.5, 2}, alpha of
# LinUCB {0.1, 0.25, 0.5, 1}. So the peers have the hindsight that our defaults do without. river's LinUCB reads its alpha as a
# precision and does not weigh its bound by it.
VW_OPTIONS = "--cb_explore_adf --squarecb --cb_type mtr --gamma_scale 10 -l 2 -q sa --ignore_linear s --quiet --random_seed 0"
MABWISER_ALPHA = 0.1
NUMPY_ALPHA = 0.1


class Bandit(NamedTuple):
    """What a peer can do one row at a time: `decide(x)` gives an action, `learn(x, action, reward)` follows it."""

    decide: Callable[[np.ndarray], int]
    learn: Callable[[np.ndarray, int, float], None]


class Bulk(NamedTuple):
    """What a peer can do with many rows: prepared before the clock starts by `rows_of` or `labelled`, and freed after it by `release`."""

    rows_of: Callable[[np.ndarray], Any]
    decide: Callable[[Any], Any]
    labelled: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
    learn: Callable[[Any], Any]
    release: Callable[[Any], Any] = lambda prepared: None


def vowpal_bandit(actions: int, features: int) -> Bandit:
    """Contextual bandits with squarecb, a weight for each action and feature; the draw follows its probabilities, and it learns them."""
    import vowpalwabbit

    workspace = vowpalwabbit.Workspace(VW_OPTIONS)
    rng, drawn = np.random.default_rng(0), {}

    def decide(x: np.ndarray) -> int:
        p = np.asarray(workspace.predict(_vowpal_text(x, actions)), dtype=np.float64)
        drawn["p"] = p / p.sum()
        return int(rng.choice(actions, p=drawn["p"]))

    def learn(x: np.ndarray, action: int, reward: float) -> None:
        workspace.learn(_vowpal_text(x, actions, f"{action}:{-reward}:{drawn['p'][action]}", action))

    return Bandit(decide, learn)


def river_bandit(actions: int, features: int) -> Bandit:
    """Disjoint LinUCB."""
    from river import bandit

    policy, arms = bandit.LinUCBDisjoint(seed=0), list(range(actions))

    def named(x: np.ndarray) -> dict[int, float]:
        return {0: 1.0, **{place: float(value) for place, value in enumerate(x, 1)}}

    return Bandit(lambda x: policy.pull(arms, context=named(x)), lambda x, action, reward: policy.update(action, named(x), reward))


def mabwiser_bandit(actions: int, features: int) -> Bandit:
    """LinUCB, fitted on one row and continued; it has no intercept of its own."""
    from mabwiser.mab import MAB, LearningPolicy

    policy = MAB(list(range(actions)), LearningPolicy.LinUCB(alpha=MABWISER_ALPHA), seed=0)
    policy.fit([0], [0.0], np.zeros((1, features + 1)))
    return Bandit(
        lambda x: int(policy.predict(_with_one(x)[None])),
        lambda x, action, reward: policy.partial_fit([action], [reward], _with_one(x)[None]),
    )


def numpy_bandit(actions: int, features: int) -> Bandit:
    """Disjoint LinUCB as the paper has it (Li et al. 2010, algorithm 1), its inverses updated in place."""
    inverse, moment = np.tile(np.eye(features + 1), (actions, 1, 1)), np.zeros((actions, features + 1))

    def decide(x: np.ndarray) -> int:
        z = _with_one(x)
        spread = np.sqrt(np.einsum("i,aij,j->a", z, inverse, z))
        return int(np.argmax(np.einsum("aij,aj->ai", inverse, moment) @ z + NUMPY_ALPHA * spread))

    def learn(x: np.ndarray, action: int, reward: float) -> None:
        z = _with_one(x)
        along = inverse[action] @ z
        inverse[action] -= np.outer(along, along) / (1.0 + z @ along)
        moment[action] += reward * z

    return Bandit(decide, learn)


def vowpal_bulk(actions: int, features: int) -> Bulk:
    """Examples are parsed before the clock starts; it takes them one by one."""
    import vowpalwabbit

    workspace = vowpalwabbit.Workspace(VW_OPTIONS)

    def labelled(x: np.ndarray, action: np.ndarray, reward: np.ndarray) -> list[Any]:
        rows = zip(x, action, reward, strict=True)
        return [workspace.parse(_vowpal_text(row, actions, f"{a}:{-r}:{1 / actions}", a)) for row, a, r in rows]

    return Bulk(
        rows_of=lambda x: [workspace.parse(_vowpal_text(row, actions)) for row in x],
        decide=lambda examples: [workspace.predict(example) for example in examples],
        labelled=labelled,
        learn=lambda examples: [workspace.learn(example) for example in examples],
        release=lambda examples: [workspace.finish_example(example) for example in examples],
    )


def mabwiser_bulk(actions: int, features: int) -> Bulk:
    """LinUCB in batches."""
    from mabwiser.mab import MAB, LearningPolicy

    policy = MAB(list(range(actions)), LearningPolicy.LinUCB(alpha=MABWISER_ALPHA), seed=0)
    policy.fit(list(range(actions)), [0.0] * actions, np.eye(actions, features))
    return Bulk(lambda x: x, policy.predict, lambda x, a, r: (a, r, x), lambda rows: policy.partial_fit(*rows))


def contextualbandits_bulk(actions: int, features: int) -> Bulk:
    """LinUCB in batches, Sherman-Morrison updates."""
    from contextualbandits.online import LinUCB

    policy = LinUCB(actions, alpha=0.1, use_float=False, random_state=1, njobs=1)
    rng = np.random.default_rng(0)
    policy.fit(rng.normal(size=(200, features)), rng.integers(0, actions, 200), rng.random(200))
    return Bulk(lambda x: x, policy.predict, lambda x, a, r: (x, a, r), lambda rows: policy.partial_fit(*rows))


PACKAGES = {"vowpalwabbit": "vowpalwabbit", "river": "river", "mabwiser": "mabwiser", "contextualbandits": "contextualbandits"}
BANDITS = {"vowpalwabbit": vowpal_bandit, "river": river_bandit, "mabwiser": mabwiser_bandit, "numpy": numpy_bandit}
BULKS = {"vowpalwabbit": vowpal_bulk, "mabwiser": mabwiser_bulk, "contextualbandits": contextualbandits_bulk}


def version(request: dict[str, Any]) -> str:
    """Version of the peer's distribution."""
    return importlib.metadata.version(PACKAGES.get(request["peer"], request["peer"]))


def reward(request: dict[str, Any]) -> float:
    """Mean reward of one pass over rows in a given order."""
    arrays = np.load(request["file"])
    contexts, labels = arrays["context"].astype(np.float64), arrays["label"]
    bandit = BANDITS[request["peer"]](int(labels.max()) + 1, contexts.shape[1])
    total = 0.0
    for row in arrays[f"order_{request['seed']}"]:
        action = bandit.decide(contexts[row])
        earned = float(action == labels[row])
        bandit.learn(contexts[row], action, earned)
        total += earned
    return total / len(arrays[f"order_{request['seed']}"])


def decide(request: dict[str, Any]) -> float:
    """Microseconds a decision, over the rows of one call."""
    bulk, contexts, _, _ = _bulk(request)
    prepared = [bulk.rows_of(contexts[: request["rows"]]) for _ in range(request["repeats"])]
    started = time.perf_counter()
    for rows in prepared:
        bulk.decide(rows)
    elapsed_s = time.perf_counter() - started
    for rows in prepared:
        bulk.release(rows)
    return elapsed_s / request["repeats"] / request["rows"] * 1e6


def update(request: dict[str, Any]) -> float:
    """Microseconds a row of one update."""
    bulk, *columns = _bulk(request)
    rows = bulk.labelled(*(column[: request["rows"]] for column in columns))
    started = time.perf_counter()
    bulk.learn(rows)
    elapsed_s = time.perf_counter() - started
    bulk.release(rows)
    return elapsed_s / request["rows"] * 1e6


TASKS: dict[str, Callable[[dict[str, Any]], float | str]] = {"version": version, "reward": reward, "decide": decide, "update": update}
_made: dict[str, tuple[Any, ...]] = {}


def _bulk(request: dict[str, Any]) -> tuple[Any, ...]:
    """A peer that has learned from the rows of the file, made once, and the rows."""
    if request["peer"] not in _made:
        arrays = np.load(request["file"])
        columns = (arrays["context"].astype(np.float64), arrays["action"].astype(np.int64), arrays["reward"])
        bulk = BULKS[request["peer"]](request["actions"], columns[0].shape[1])
        bulk.learn(bulk.labelled(*(column[:1_000] for column in columns)))
        _made[request["peer"]] = (bulk, *columns)
    return _made[request["peer"]]


def _vowpal_text(x: np.ndarray, actions: int, label: str = "", labelled: int = -1) -> str:
    """A decision in VW's text format: a shared context, and an indicator for each action; the shown one has the label."""
    shared = "shared |s one:1 " + " ".join(f"{place}:{value:.6g}" for place, value in enumerate(x))
    return "\n".join([shared, *(f"{label if action == labelled else ''} |a {action}" for action in range(actions))])


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones(1), x])


if __name__ == "__main__":
    answer_requests(TASKS)
