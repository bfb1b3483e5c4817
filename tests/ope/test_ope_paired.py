"""Two policies on the same rows."""

import numpy as np
import pytest

from ope.errors import RowsError
from ope.estimators import CATALOG, SLATE_ESTIMATORS, estimator
from ope.paired import paired
from ope.rows import Batch
from tests.ope.slow_reference import difference_and_error, example

LEVEL = 0.05


def two(name: str, *, units: int | None = 40, rows: int = 400) -> tuple[Batch, Batch]:
    slots = 3 if name in SLATE_ESTIMATORS else 1
    challenger = example(seed=3, rows=rows, slots=slots, units=units)
    other = example(seed=4, rows=rows, slots=slots, units=units)
    return challenger, other._replace(reward=challenger.reward, unit=challenger.unit)


@pytest.mark.parametrize("units", [None, 40])
@pytest.mark.parametrize("name", sorted(CATALOG))
def test_the_difference_of_a_policy_with_itself_is_exactly_zero(name: str, units: int | None) -> None:
    batch, pair = two(name, units=units)[0], paired(estimator(name))
    halves = [Batch(*(None if x is None else x[part] for x in batch)) for part in (slice(0, 150), slice(150, 400))]
    merged = pair.merge(*(pair.moments(half, half) for half in halves))
    for moments in (pair.moments(batch, batch), merged):
        difference = pair.finish(moments, LEVEL).difference
        assert (difference.value, difference.standard_error, difference.lower, difference.upper) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("units", [None, 40])
@pytest.mark.parametrize("name", sorted(CATALOG))
def test_the_difference_agrees_with_the_slow_reference_and_with_its_two_parts(name: str, units: int | None) -> None:
    challenger, champion = two(name, units=units)
    pair, entry = paired(estimator(name)), estimator(name)
    found = pair.finish(pair.moments(challenger, champion), LEVEL)
    expected = difference_and_error(name, challenger, champion)
    assert (found.difference.value, found.difference.standard_error) == pytest.approx(expected, rel=1e-11)
    assert found.challenger.value == pytest.approx(entry.finish(entry.moments(challenger), LEVEL).value, rel=1e-12)
    assert found.champion.standard_error == pytest.approx(entry.finish(entry.moments(champion), LEVEL).standard_error, rel=1e-12)


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_what_is_assumed_and_doubted_of_a_value_is_so_of_a_difference(name: str) -> None:
    batches = two(name)
    entry = estimator(name)
    pair = paired(entry)
    alone = entry.finish(entry.moments(batches[0]), LEVEL)
    found = pair.finish(pair.moments(*batches), LEVEL)
    assert found.challenger.reasons == alone.reasons and {each.assumption for each in found} == {alone.assumption}
    assert set(entry.doubts) <= set(found.difference.reasons)


def test_the_reward_model_alone_is_doubted_in_a_comparison() -> None:
    assert estimator("dm").doubts and not estimator("dr").doubts


def test_exchanging_the_policies_changes_the_sign_only() -> None:
    challenger, champion = two("rips")
    pair = paired(estimator("rips"))
    there, back = (pair.finish(pair.moments(*batches), LEVEL).difference for batches in ((challenger, champion), (champion, challenger)))
    assert there.value == pytest.approx(-back.value, rel=1e-12) and there.lower == pytest.approx(-back.upper, rel=1e-12)


def test_pairing_cancels_the_noise_that_both_share() -> None:
    challenger, champion = two("ips", units=None)
    near = champion._replace(weight=challenger.weight * 1.01)
    pair = paired(estimator("ips"))
    found = pair.finish(pair.moments(challenger, near), LEVEL)
    assert found.difference.standard_error < 0.05 * found.challenger.standard_error


def test_repeating_every_row_of_a_unit_leaves_the_clustered_error_alone() -> None:
    challenger, champion = two("rips", units=30)
    pair = paired(estimator("rips"))
    twice = [Batch(*(None if x is None else np.concatenate([x, x]) for x in batch)) for batch in (challenger, champion)]
    once, doubled = (pair.finish(pair.moments(*batches), LEVEL).difference for batches in ((challenger, champion), twice))
    assert doubled.standard_error == pytest.approx(once.standard_error, rel=1e-12)


def test_other_rows_are_refused() -> None:
    challenger, champion = two("ips")
    pair = paired(estimator("ips"))
    with pytest.raises(RowsError, match="reward of challenger and champion differ"):
        pair.moments(challenger, champion._replace(reward=champion.reward + 1))
    with pytest.raises(RowsError, match="unit of challenger and champion differ"):
        pair.moments(challenger, champion._replace(unit=None))
    with pytest.raises(RowsError, match="2 and 1 policies do not merge"):
        pair.merge(pair.moments(challenger, champion), estimator("ips").moments(champion))
