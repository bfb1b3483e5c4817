"""Policy trees: exact at depth 2 against every tree that there is, better with depth, and said in words, JSON and SQL that agree."""

import itertools
import json

import duckdb
import numpy as np
import pytest

from bandits.personalise import tree as trees
from bandits.personalise.boosting import binned, edges_of, leaves
from bandits.personalise.encoding import Feature
from bandits.personalise.rules import as_json, as_sql, as_text, rule_of, rules
from bandits.personalise.tree import grown
from bandits.personalise.tree_shape import PolicyTree, arms_of_rows, deepened, grafted, simplified

RNG = np.random.default_rng(5)
N = 90
X = RNG.integers(0, 4, (N, 3)).astype(float)
SCORES = RNG.normal(size=(N, 3))
BINS = binned(X, edges_of(X))


def value(tree: PolicyTree, x: np.ndarray = X, scores: np.ndarray = SCORES) -> float:
    return float(scores[np.arange(len(x)), arms_of_rows(tree, x)].sum())


def best(chosen: np.ndarray, depth: int, least: int) -> float:
    """The best value of any tree, by trying all of them."""
    if chosen.sum() < least:
        return -np.inf
    found = float(SCORES[chosen].sum(axis=0).max())
    if depth:
        for feature in range(X.shape[1]):
            for edge in BINS.edges[feature]:
                left = X[:, feature] <= edge
                found = max(found, best(chosen & left, depth - 1, least) + best(chosen & ~left, depth - 1, least))
    return found


@pytest.mark.parametrize(("depth", "least"), [(0, 1), (1, 1), (1, 20), (2, 1), (2, 12), (2, 30)])
def test_no_tree_up_to_depth_2_is_better(depth: int, least: int) -> None:
    tree = grown(BINS, SCORES, depth=depth, least=least)
    assert value(tree) == pytest.approx(best(np.ones(N, bool), depth, least), rel=1e-12)
    leaf = np.unique(leaves(tree.feature, tree.threshold, X), return_counts=True)[1]
    assert leaf.min() >= least


def test_depth_3_is_at_least_as_good_as_depth_2_and_close_to_the_best() -> None:
    deep = value(grown(BINS, SCORES, depth=3))
    assert deep >= value(grown(BINS, SCORES, depth=2)) and deep >= 0.9 * best(np.ones(N, bool), 3, 1)


def test_a_split_by_two_features_that_no_single_one_tells_is_found() -> None:
    x = RNG.normal(size=(2_000, 4))
    same = (x[:, 1] > 0) == (x[:, 2] > 0)
    scores = np.stack([same, ~same], axis=1).astype(float)
    tree = grown(binned(x, edges_of(x)), scores, depth=2)
    assert value(tree, x, scores) > 0.9 * len(x)


def test_screening_pairs_on_a_sample_finds_the_same_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.normal(size=(6_000, 8))
    scores = np.stack([np.zeros(6_000), x[:, 1] * np.sign(x[:, 6]), x[:, 3]], axis=1)
    rows = binned(x, edges_of(x))
    whole = grown(rows, scores, depth=2, least=10)
    monkeypatch.setattr(trees, "_SCREENED", 2_000)
    screened = grown(rows, scores, depth=2, least=10)
    assert value(screened, x, scores) >= 0.99 * value(whole, x, scores)


def test_bins_are_those_of_a_sorted_search_ends_and_edges_too() -> None:
    values = np.concatenate([RNG.normal(size=9_000), RNG.exponential(size=3_000) ** 4, [-np.inf, np.inf]])
    edges = np.unique(np.concatenate([RNG.normal(size=20), 30.0 + 1e-9 * np.arange(5), values[:5]]))
    values = np.concatenate([values, edges])
    np.testing.assert_array_equal(binned(values[:, None], [edges]).codes[0], np.searchsorted(edges, values, side="left"))


def test_a_split_between_leaves_of_one_arm_is_no_split() -> None:
    tree = PolicyTree(np.array([0, 1, 2], np.int32), np.array([0.5, 1.5, 2.5]), np.array([1, 1, 0, 1], np.int32))
    simple = simplified(tree)
    assert np.isinf(simple.threshold[1]) and np.isfinite(simple.threshold[[0, 2]]).all()
    np.testing.assert_array_equal(arms_of_rows(simple, X), arms_of_rows(tree, X))


def test_a_split_whose_one_side_plays_what_the_other_would_play_there_is_no_split() -> None:
    # x0 <= 2.5: (x0 <= 0.5: 1, else x0 <= 1.5: 1, else 0); else 0. All that it says is x0 <= 1.5.
    tree = PolicyTree(
        np.zeros(7, np.int32), np.array([2.5, 0.5, np.inf, np.inf, 1.5, np.inf, np.inf]), np.array([1, 1, 1, 0, 0, 0, 0, 0], np.int32)
    )
    simple = simplified(tree)
    assert [rule.when for rule in rules(simple, [Feature(name, "number") for name in "abc"])] == [("a <= 1.5",), ("a > 1.5",)]
    np.testing.assert_array_equal(arms_of_rows(simple, X), arms_of_rows(tree, X))


def test_simplified_and_grafted_and_deepened_trees_play_what_they_are_made_of() -> None:
    rng = np.random.default_rng(9)
    x = rng.integers(0, 4, (400, 3)).astype(float)
    for _ in range(50):
        parts = [
            PolicyTree(
                rng.integers(0, 3, 2**d - 1).astype(np.int32), rng.integers(0, 4, 2**d - 1) - 0.5, rng.integers(0, 2, 2**d).astype(np.int32)
            )
            for d in (2, 2, 1)
        ]
        whole = grafted(parts[2], [deepened(part, 3) for part in parts[:2]])
        np.testing.assert_array_equal(
            arms_of_rows(whole, x), np.where(arms_of_rows(parts[2], x) == 0, arms_of_rows(parts[0], x), arms_of_rows(parts[1], x))
        )
        simple = simplified(whole)
        np.testing.assert_array_equal(arms_of_rows(simple, x), arms_of_rows(whole, x))
        assert np.isfinite(simple.threshold).sum() <= np.isfinite(whole.threshold).sum()


FEATURES = (Feature("age", "number", fill=1.0), Feature("place", "level", "O'Neill"), Feature("place", "level", "b"))
ARMS = ("no", "it's", "c")


def test_rules_sql_and_arrays_play_the_same_arms_missing_values_too() -> None:
    x = np.column_stack([RNG.integers(0, 4, N), *np.eye(3)[RNG.integers(0, 3, N)][:, :2].T])
    tree = grown(binned(x, edges_of(x)), SCORES, depth=3)
    words = [None if row[1] + row[2] == 0 else "O'Neill" if row[1] else "b" for row in x]
    ages = [None if row[0] == 1.0 else row[0] for row in x]
    base = duckdb.connect()
    base.execute('CREATE TABLE t ("row" INTEGER, age DOUBLE, place VARCHAR)')
    base.executemany("INSERT INTO t VALUES (?, ?, ?)", [list(each) for each in zip(range(N), ages, words, strict=True)])
    told = [arm for (arm,) in base.execute(f'SELECT {as_sql(tree, FEATURES, ARMS)} FROM t ORDER BY "row"').fetchall()]
    assert told == [ARMS[arm] for arm in arms_of_rows(tree, x)]
    lines = dict(line.rsplit(": ", 1) for line in as_text(tree, FEATURES, ARMS).splitlines())
    assert [lines[rule_of(tree, FEATURES, row)] for row in x] == told


def test_json_is_the_three_arrays_with_their_names() -> None:
    tree = simplified(PolicyTree(np.array([0, 1, 2], np.int32), np.array([0.5, np.inf, 0.5]), np.array([1, 1, 0, 2], np.int32)))
    said = json.loads(json.dumps(as_json(tree, FEATURES, ARMS), allow_nan=False))
    assert said["threshold"] == [0.5, None, 0.5] and said["arm"] == [1, 1, 0, 2]
    assert said["rules"][0] == {"when": ["age <= 0.5"], "arm": "it's"}
    assert said["rules"][2] == {"when": ["age > 0.5", "place = b"], "arm": "c"}


def test_conditions_on_one_number_are_merged_and_a_constant_policy_is_always() -> None:
    tree = PolicyTree(np.array([0, 0, 0], np.int32), np.array([2.0, 1.0, 3.0]), np.array([0, 1, 2, 0], np.int32))
    assert [rule.when for rule in rules(tree, FEATURES)] == [("age <= 1",), ("age <= 2", "age > 1"), ("age > 2", "age <= 3"), ("age > 3",)]
    assert as_text(grown(BINS, SCORES, depth=0), FEATURES, ARMS).startswith("always: ")


def test_every_row_falls_under_one_rule() -> None:
    tree = grown(BINS, SCORES, depth=3)
    names = [Feature(name, "number") for name in "abc"]
    for row in itertools.product(range(4), repeat=3):
        assert rule_of(tree, names, np.array(row, float))
