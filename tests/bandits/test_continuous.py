"""A continuous parameter: bins, values and densities by their definition, histograms against densities, and refusals."""

from typing import Any

import numpy as np
import pytest
import scipy.stats

from bandits.catalog import build
from bandits.config import TaskPolicy, parse_task
from bandits.continuous import RangeSection, bin_of, slot_values
from bandits.errors import PolicyError
from bandits.keys import decision_id, draw_key, slot_draws, value_draws
from bandits.policy import Batch
from bandits.programs import run_decide, run_numerators, run_prepare
from bandits.quantise import DENOMINATOR
from bandits.requests import Requests
from protos.errors import ConfigError
from protos.task import TaskFile

DRAWS, BINS = 30_000, 8


def task(**policy: Any) -> TaskPolicy:
    sections = {
        "features": {"context": [{"name": "age", "default": 0.0}]},
        "policy": {"range": {"lower": 2.0, "upper": 6.0, "bins": BINS}, **policy},
    }
    return parse_task(TaskFile(name="load", tenant="default", sections=sections, digest="d"))


@pytest.mark.parametrize(
    "section",
    [RangeSection(lower=2, upper=6, bins=8), RangeSection(lower=-1e-9, upper=1e9, bins=3), RangeSection(lower=0, upper=0.1, bins=10)],
)
def test_the_bins_cover_the_range_and_their_ids_hold_their_edges(section: RangeSection) -> None:
    bins = [bin_of(action) for action in section.actions]
    assert all(found is not None for found in bins)
    edges = [found.lower for found in bins if found] + [bins[-1].upper if bins[-1] else np.nan]
    np.testing.assert_array_equal(edges, section.edges)
    assert edges[0] == section.lower and edges[-1] == section.upper and len(set(section.actions)) == section.bins


@pytest.mark.parametrize("action", ["a", "[1,2]", "[2,1)", "[1,inf)", "[nan,1)", "[1,1)", "[a,b)", "x[1,2)", ""])
def test_other_actions_are_no_bins_and_have_no_value(action: str) -> None:
    assert bin_of(action) is None
    assert slot_values([action], [1 << 30], np.array([1, 2], np.uint32)) == [None]


def test_a_value_is_its_place_in_the_bin_and_its_density_the_probability_over_the_width() -> None:
    key = np.array([3, 4], np.uint32)
    found = slot_values(["[2.0,2.5)", "[10.0,20.0)"], [1 << 29, 1 << 31], key)
    draws = value_draws(key, 2) / DENOMINATOR
    assert [item.value for item in found if item] == pytest.approx([2.0 + 0.5 * draws[0], 10.0 + 10.0 * draws[1]])
    assert [item.density for item in found if item] == [0.25 / 0.5, 1.0 / 10.0]


def test_a_value_never_reaches_the_upper_edge() -> None:
    narrow = f"[1.0,{np.nextafter(1.0, 2.0)!r})".replace("np.float64(", "").replace("))", ")")
    for number in range(50):
        (found,) = slot_values([narrow], [DENOMINATOR], draw_key(number.to_bytes(16, "little")))
        assert found is not None and found.value == 1.0


def test_the_draws_of_values_and_of_slots_are_other_numbers() -> None:
    keys = [draw_key(_id(number)) for number in range(2000)]
    slots, values = (np.array([draws(key, 1)[0] for key in keys]) / DENOMINATOR for draws in (slot_draws, value_draws))
    # Correlation of 2,000 independent uniform pairs: deviation 1/sqrt(2000); 5 of them, false alarm 6e-7.
    assert abs(np.corrcoef(slots, values)[0, 1]) < 5.0 / np.sqrt(2000)
    assert scipy.stats.kstest(values, "uniform").pvalue > 1e-6


def _id(number: int) -> bytes:
    return decision_id(tenant="t", task="load", request_id=str(number), arm="champion", snapshot_digest="0")


@pytest.mark.parametrize("name", ["linear_thompson", "softmax"])
def test_the_histogram_of_values_is_the_logged_density(name: str) -> None:
    """30,000 draws in 32 cells (four a bin): chi-square against the densities; false alarm 1e-6. It would see cells off by 20 %."""
    spec = task(name=name).spec
    policy, rng = build(spec), np.random.default_rng(0)
    actions = rng.integers(0, BINS, 200).astype(np.int32)
    params = run_prepare(
        spec, policy.update(policy.init(), Batch.of(rng.normal(size=(200, 1)), actions, -np.abs(actions - 4.7) + rng.normal(size=200)))
    )
    keys = np.stack([draw_key(_id(number)) for number in range(DRAWS)])
    one = Requests.of(np.ones((DRAWS, 1)), np.arange(BINS), draw_key=keys)
    drawn = run_decide(spec, params, one, slots=1)
    ids = task().schema.actions
    valued = [
        slot_values([ids[place]], [numerator], key)[0]
        for place, numerator, key in zip(drawn.slates[:, 0], drawn.numerators[:, 0].tolist(), keys, strict=True)
    ]
    values, densities = (np.array([getattr(item, field) for item in valued]) for field in ("value", "density"))
    every = Requests.of(np.ones((BINS, 1)), np.arange(BINS))
    p = run_numerators(spec, params, every, np.arange(BINS, dtype=np.int32)[:, None]).numerators[:, 0] / DENOMINATOR
    assert p.max() > 2.0 * p.min()
    counts, _ = np.histogram(values, bins=4 * BINS, range=(2.0, 6.0))
    assert scipy.stats.chisquare(counts, np.repeat(p / 4.0, 4) * DRAWS).pvalue > 1e-6
    np.testing.assert_allclose(densities, p[((values - 2.0) / 0.5).astype(int)] / 0.5, rtol=0, atol=1e-8)
    # The density is what importance weighting needs: the mean of 1/density is the length of the range (5 standard errors).
    weights = 1.0 / densities
    assert abs(weights.mean() - 4.0) < 5.0 * weights.std() / np.sqrt(DRAWS)


@pytest.mark.parametrize(
    ("policy", "features", "said"),
    [
        ({"range": {"lower": 1.0, "upper": 1.0}}, {}, "leave no room"),
        ({"range": {"lower": 0.0, "upper": 1.0, "bins": 1}}, {}, "bins"),
        ({"range": {"lower": 0.0, "uper": 1.0}}, {}, "did you mean `upper`"),
        ({"slate_size": 2}, {}, "policy.slate_size: 2"),
        ({}, {"actions": ["a"]}, "policy.range: stands beside"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(policy: dict[str, Any], features: dict[str, Any], said: str) -> None:
    sections = {"features": features, "policy": {"range": {"lower": 0.0, "upper": 1.0}, **policy}}
    with pytest.raises((ConfigError, PolicyError), match=said):
        parse_task(TaskFile(name="load", tenant="default", sections=sections, digest="d"))
