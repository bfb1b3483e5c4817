"""Slates are judged under two assumptions: where one fails it is named, where both hold it is not."""

import dataclasses

import numpy as np
import pytest

from ope.agreement import FALSE_ALARM, agreement, apart, contradiction
from ope.estimators import estimator
from ope.evaluate import compare, evaluate
from ope.rows import Batch, as_logged
from tests.ope.gate_rows import judged, rows
from tests.ope.slow_reference import difference_and_error, example, value_and_influence


def world(rng: np.random.Generator, n: int, *, interact: float, users: int | None = None) -> Batch:
    """Two slots, two items at even odds; the target takes item 1 in 90 % of each slot. Item 1 alone is worth 0.1 less; equal items earn
    `interact`: the truth of the second slot is 0.3 - 0.09 + 0.82 interact, and the log's is 0.3 - 0.05 + 0.5 interact."""
    item = rng.random((n, 2)) < 0.5
    ratio = np.where(item, 1.8, 0.2)
    chance = 0.3 - 0.1 * item[:, 1] + interact * (item[:, 0] == item[:, 1])
    reward = np.stack([np.zeros(n), rng.random(n) < chance], axis=1).astype(float)
    unit = None if users is None else rng.integers(0, users, n).astype(np.uint64)
    return Batch(reward, np.cumprod(ratio, axis=1), unit=unit, marginal_weight=ratio)


def test_a_ranking_that_interaction_reverses_is_named_and_both_assumptions_are_always_run() -> None:
    batch = world(np.random.default_rng(0), 20_000, interact=0.15, users=4_000)
    found = compare([(batch, as_logged(batch))], names=["iips"])
    assert list(found) == ["iips", "sips"]
    independent, joint = found["iips"].difference, found["sips"].difference
    assert independent.upper < -0.02 and joint.lower > -0.02, "the tight interval of iips is on the wrong side of the truth, +0.008"
    for difference in (independent, joint):
        assert "iips and sips contradict each other" in difference.reasons[-1] and difference.reasons[-1].endswith("hold")
    alone = evaluate([batch], names=["iips"])
    assert "contradict" in alone["iips"].reasons[-1] and "contradict" not in " ".join(evaluate([batch], names=["rips"])["rips"].reasons)


def test_assumptions_that_hold_are_named_as_seldom_as_stated() -> None:
    """400 logs, of which 1 % may be named: more than 12 would be with probability 3e-4 (binomial)."""
    told = 0
    for seed in range(400):
        batch = world(np.random.default_rng([1, seed]), 600, interact=0.0, users=200)
        told += "contradict" in " ".join(evaluate([batch], names=["iips"])["iips"].reasons)
    assert told <= 400 * FALSE_ALARM + 8


def test_rows_of_one_kind_of_weight_say_that_nothing_checks_them() -> None:
    batch = world(np.random.default_rng(0), 500, interact=0.0)._replace(weight=None)
    assert "no second assumption" in evaluate([batch], names=["iips"])["iips"].reasons[-1]
    single = evaluate([Batch(batch.reward[:, 1:], batch.marginal_weight[:, 1:])])
    assert list(single) == ["ips", "snips"] and not single["ips"].reasons


@pytest.mark.parametrize("names", [("rips", "sips"), ("snrips", "sips"), ("cascade_dr", "snsips")])
@pytest.mark.parametrize("units", [None, 30])
def test_the_joint_error_is_that_of_the_paired_difference_by_unit(names: tuple[str, str], units: int | None) -> None:
    first, second = (example(seed=seed, rows=120, slots=3, units=units) for seed in (1, 2))
    second = second._replace(reward=first.reward, unit=first.unit)
    check = agreement(*map(estimator, names))
    whole = apart(check.moments(first, second), level=0.05)
    parts = [
        check.moments(*(Batch(*(a if a is None else a[part] for a in batch)) for batch in (first, second)))
        for part in (slice(50), slice(50, None))
    ]
    merged = apart(check.merge(*parts), level=0.05)
    influence = np.zeros(120)
    value = 0.0
    for name, outer in zip(names, (1, -1), strict=True):
        for batch, inner in ((first, 1), (second, -1)):
            found, moved = value_and_influence(name, batch)
            value, influence = value + outer * inner * found, influence + outer * inner * np.array(moved)
    key = np.arange(120) if first.unit is None else first.unit.astype(np.int64)
    by_unit = np.bincount(key, influence)[np.unique(key)]
    error = np.sqrt((by_unit**2).sum() * len(by_unit) / (len(by_unit) - 1))
    assert (whole.value, whole.standard_error) == pytest.approx((value, error), rel=1e-10)
    assert (merged.value, merged.standard_error) == pytest.approx((value, error), rel=1e-10)
    alone = np.array([difference_and_error(name, first, second)[1] for name in names])
    assert error < np.sqrt((alone**2).sum()) or "snsips" in names


def test_estimators_that_are_the_same_on_single_actions_never_contradict() -> None:
    batch = example(seed=0, rows=200, slots=1, units=None)
    moments = agreement(estimator("rips"), estimator("sips")).moments(batch, as_logged(batch))
    assert apart(moments, level=0.05).value == 0.0 and contradiction(moments, ("rips", "sips")) is None


def test_the_gate_asks_the_same_function() -> None:
    """A contradiction that separate intervals would not show: they meet, and the paired difference is beyond its error."""
    rng = np.random.default_rng(3)
    n = 3_000
    first, second = rng.random(n) < 0.5, rng.random(n) < 0.5
    reward = np.stack([(rng.random(n) < 0.3 + 0.12 * ~second).astype(float), np.zeros(n)], axis=1)
    challenger = np.cumprod(np.stack([np.where(first, 1.5, 0.5), np.where(second, 1.5, 0.5)], axis=1), axis=1)
    verdict = judged(dataclasses.replace(rows(n), reward=reward, challenger=challenger), complete=True)
    assert verdict.decision == "veto" and "rips and sips contradict each other" in verdict.reasons[0]
