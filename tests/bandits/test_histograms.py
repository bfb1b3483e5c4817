"""Histograms of features: what they count, and when they say that two sets of rows differ."""

import numpy as np
import pytest

from bandits.features import FeaturesSection, Schema
from bandits.histograms import FeatureHistogram, Seen, drift, histograms
from protos.config import parse

CONTEXT = [{"name": "age"}, {"name": "member", "type": "bool"}, {"name": "plan", "type": "category", "vocabulary": ["a", "b"]}]
SCHEMA = Schema.of(parse(FeaturesSection, {"context": [*CONTEXT, {"name": "pair", "size": 2}]}, where="features"))


def rows(n: int, *, seed: int, age: float = 40.0, member: float = 0.5, lacking: int = 0) -> Seen:
    rng = np.random.default_rng(seed)
    plan = np.eye(3)[rng.integers(0, 3, n)]
    columns = [rng.normal(age, 10, (n, 1)), rng.random((n, 1)) < member, plan, rng.normal(size=(n, 2))]
    return Seen(np.hstack(columns).astype(np.float32), [("age",)] * lacking + [()] * (n - lacking))


def test_every_row_is_counted_once_in_each_feature() -> None:
    found = histograms(rows(1_000, seed=1, lacking=100), SCHEMA)
    assert {name: sum(one.counts) for name, one in found.items()} == {"age": 1_000, "member": 1_000, "plan": 1_000, "pair": 2_000}
    assert (found["age"].missing, found["age"].rows, found["plan"].missing) == (100, 1_000, 0)
    assert len(found["age"].counts) == 10 and min(found["age"].counts) >= 99 and len(found["plan"].counts) == 3


def test_rows_of_one_law_have_an_index_that_chance_explains_and_others_do_not() -> None:
    before = histograms(rows(5_000, seed=1), SCHEMA)
    same = drift(before, rows(5_000, seed=2), SCHEMA)
    # About (bins - 1) (1 / n + 1 / m) = 0.0036 by chance; ten times that is beyond any of ten million runs.
    assert max(one.psi for one in same.values()) < 0.036
    other = drift(before, rows(5_000, seed=3, age=50.0, member=0.9, lacking=2_500), SCHEMA)
    assert other["age"].psi > 0.2 and other["member"].psi > 0.2 and other["plan"].psi < 0.036
    assert (other["age"].missing_before, other["age"].missing) == (0.0, 0.5)


def test_the_index_is_the_sum_that_its_definition_says() -> None:
    before = {"member": FeatureHistogram(edges=(0.5,), counts=(30, 70), rows=100, missing=0)}
    now = Seen(np.hstack([np.zeros((100, 1)), np.repeat([1, 0], [40, 60])[:, None], np.zeros((100, 5))]).astype(np.float32), [()] * 100)
    p, q = np.array([30.5, 70.5]) / 101, np.array([60.5, 40.5]) / 101
    assert drift(before, now, SCHEMA)["member"].psi == pytest.approx(((q - p) * np.log(q / p)).sum())


def test_no_rows_and_other_features_say_nothing() -> None:
    none = Seen(np.zeros((0, 7), np.float32), [])
    assert histograms(none, SCHEMA) == {} and drift(histograms(rows(10, seed=1), SCHEMA), none, SCHEMA) == {}
    assert drift({"gone": FeatureHistogram(counts=(1,), rows=1, missing=0)}, rows(10, seed=1), SCHEMA) == {}
    constant = Seen(np.ones((10, 7), np.float32), [()] * 10)
    assert sum(histograms(constant, SCHEMA)["age"].counts) == 10
