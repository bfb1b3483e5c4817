"""One contract suite over the catalog of estimators: adding a name to the catalog puts it under these tests."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ope.errors import RowsError
from ope.estimators import CATALOG, SLATE_ESTIMATORS, estimator
from ope.moments import Moments
from ope.rows import Batch, check, prefix_weights, single_actions, unit_keys
from tests.ope.slow_reference import WEIGHT_OF, WEIGHTS, example, value_and_error, with_weights_of

NAMES = sorted(CATALOG)
UNITS = [None, 40]
LEVEL = 0.05


def rows_for(name: str, *, seed: int = 0, rows: int = 500, units: int | None = None) -> Batch:
    return example(seed=seed, rows=rows, slots=3 if name in SLATE_ESTIMATORS else 1, units=units)


def cut(batch: Batch, *places: int) -> list[Batch]:
    edges = [0, *places, len(batch.reward)]
    return [Batch(*(None if x is None else x[a:b] for x in batch)) for a, b in itertools.pairwise(edges)]


def assert_equal_moments(left: Moments, right: Moments) -> None:
    for name, one, other in zip(Moments._fields, left, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", NAMES)
def test_value_and_error_agree_with_the_slow_reference(name: str, units: int | None) -> None:
    batch, entry = rows_for(name, units=units), estimator(name)
    estimate = entry.finish(entry.moments(batch), LEVEL)
    assert (estimate.value, estimate.standard_error) == pytest.approx(value_and_error(name, batch), rel=1e-12)
    assert estimate.n == 500 and estimate.n_units == (500 if units is None else 40)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", NAMES)
def test_merging_commutes_associates_and_splitting_changes_nothing(name: str, units: int | None) -> None:
    batch, entry = rows_for(name, units=units), estimator(name)
    a, b, c = (entry.moments(part) for part in cut(batch, 120, 300))
    whole = entry.moments(batch)
    assert_equal_moments(entry.merge(a, b), entry.merge(b, a))
    assert_equal_moments(entry.merge(entry.merge(a, b), c), entry.merge(a, entry.merge(b, c)))
    assert_equal_moments(entry.merge(entry.merge(a, b), c), whole)
    assert_equal_moments(entry.merge(entry.moments(cut(batch, 0)[0]), whole), whole)


@given(place=st.integers(0, 60), seed=st.integers(0, 1000), name=st.sampled_from(NAMES))
def test_estimates_do_not_depend_on_where_a_log_is_cut(place: int, seed: int, name: str) -> None:
    batch, entry = rows_for(name, seed=seed, rows=60, units=7), estimator(name)
    left, right = (entry.moments(part) for part in cut(batch, place))
    merged, whole = entry.finish(entry.merge(left, right), LEVEL), entry.finish(entry.moments(batch), LEVEL)
    assert (merged.value, merged.standard_error) == pytest.approx((whole.value, whole.standard_error), rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_memory_grows_with_units_and_not_with_rows(name: str) -> None:
    entry = estimator(name)
    sizes = [sum(np.asarray(part).nbytes for part in entry.moments(rows_for(name, rows=rows, units=5))) for rows in (100, 1000)]
    alone = [sum(np.asarray(part).nbytes for part in entry.moments(rows_for(name, rows=rows))) for rows in (100, 1000)]
    assert sizes[0] == sizes[1] and alone[0] == alone[1]


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_give_nan_with_a_reason(name: str) -> None:
    entry = estimator(name)
    estimate = entry.finish(entry.moments(rows_for(name, rows=0)), LEVEL)
    assert math.isnan(estimate.value) and math.isnan(estimate.standard_error) and math.isnan(estimate.lower)
    assert "no rows" in estimate.reasons[0]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dm"])
def test_a_log_without_evidence_of_the_target_gives_nan_and_never_zero(name: str) -> None:
    batch, entry = rows_for(name), estimator(name)
    estimate = entry.finish(entry.moments(with_weights_of(batch, 0.0)), LEVEL)
    assert math.isnan(estimate.value) and "every weight is 0" in estimate.reasons[0]


@pytest.mark.parametrize("name", NAMES)
def test_each_array_that_is_needed_is_asked_for_by_name(name: str) -> None:
    for array in CATALOG[name].needs:
        with pytest.raises(RowsError, match=f"{array} is None; `{name}` needs it"):
            CATALOG[name].moments(rows_for(name)._replace(**{array: None}))


@pytest.mark.parametrize("array", ["reward", "q_logged", "v_target", *WEIGHTS])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_is_refused_by_array_and_row(name: str, bad: float, array: str) -> None:
    batch = rows_for(name)
    values = getattr(batch, array).copy()
    values[7, 0] = bad
    with pytest.raises(RowsError, match=f"{array} of row 7, slot 0 is {bad}"):
        CATALOG[name].moments(batch._replace(**{array: values}))


def test_one_unit_leaves_the_error_unknown() -> None:
    entry, batch = estimator("ips"), rows_for("ips", units=1)
    estimate = entry.finish(entry.moments(batch), LEVEL)
    assert math.isnan(estimate.standard_error) and math.isfinite(estimate.value)
    assert "one unit" in estimate.reasons[0]


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_one_give_the_mean_of_the_log(name: str) -> None:
    batch, entry = rows_for(name), estimator(name)
    same = with_weights_of(batch, 1.0)._replace(q_logged=batch.reward, v_target=batch.reward)
    # A perfect model leaves nothing to correct, so a weight of 1 that is shrunk does no harm.
    assert entry.finish(entry.moments(same), LEVEL).value == pytest.approx(batch.reward.sum() / len(batch.reward), rel=1e-12)


@pytest.mark.parametrize("name", ["snips", "balanced_snips", "msnips", "kernel_snips", "snsips", "snrips", "sniips"])
def test_the_self_normalised_see_no_common_factor_of_the_weights_and_a_shift_of_the_rewards_as_it_is(name: str) -> None:
    batch, entry, kind = rows_for(name), estimator(name), WEIGHT_OF.get(name, "weight")
    value = entry.finish(entry.moments(batch), LEVEL).value
    scaled = batch._replace(**{kind: getattr(batch, kind) * 7})
    shifted, slots = batch._replace(reward=batch.reward + 5), batch.reward.shape[1]
    assert entry.finish(entry.moments(scaled), LEVEL).value == pytest.approx(value, rel=1e-12)
    assert entry.finish(entry.moments(shifted), LEVEL).value == pytest.approx(value + 5 * slots, rel=1e-12)


def test_sndr_sees_no_common_factor_of_the_weights() -> None:
    batch, entry = rows_for("sndr"), estimator("sndr")
    values = [entry.finish(entry.moments(batch._replace(weight=batch.weight * factor)), LEVEL).value for factor in (1, 7)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_an_absent_slot_changes_nothing_whether_padded_or_met_in_a_merge() -> None:
    short, long = example(seed=1, rows=50, slots=2, units=9), example(seed=2, rows=50, slots=3, units=9)
    padded = short._replace(**{name: np.pad(getattr(short, name), ((0, 0), (0, 1))) for name in ("reward", "q_logged", "v_target")})
    longer = {name: np.pad(getattr(short, name), ((0, 0), (0, 1)), mode="edge") for name in ("weight", "marginal_weight")}
    padded = padded._replace(**longer)
    for name in SLATE_ESTIMATORS:
        entry = estimator(name)
        for first in (short, short._replace(unit=None)):
            other = padded._replace(unit=first.unit)
            assert_equal_moments(
                entry.merge(entry.moments(first), entry.moments(long)), entry.merge(entry.moments(other), entry.moments(long))
            )


def test_effective_sample_size_is_of_the_weights_and_doubts_name_few_rows_and_one_row() -> None:
    weight = np.full(1000, 0.01)
    weight[3] = 990.01
    entry = estimator("ips")
    estimate = entry.finish(entry.moments(single_actions(reward=np.ones(1000), weight=weight)), LEVEL)
    assert estimate.effective_sample_size == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=1e-12)
    assert estimate.largest_weight == 990.01 and estimate.mean_weight == pytest.approx(1.0)
    assert any("effective sample size" in reason for reason in estimate.reasons)
    assert any("one row" in reason for reason in estimate.reasons)


def test_slates_are_refused_by_estimators_of_single_actions() -> None:
    for name in set(CATALOG) - set(SLATE_ESTIMATORS):
        with pytest.raises(RowsError, match="use rips or sips"):
            CATALOG[name].moments(example(seed=0, rows=5, slots=2, units=None))


def test_faulty_rows_are_refused_with_their_place() -> None:
    with pytest.raises(RowsError, match=r"weight of row 1 is -0\.5"):
        single_actions(reward=[1.0, 1.0], weight=[1.0, -0.5])
    with pytest.raises(RowsError, match=r"weight has shape \(3, 1\)"):
        single_actions(reward=[1.0, 1.0], weight=[1.0, 1.0, 1.0])
    with pytest.raises(RowsError, match="unit has shape"):
        check(Batch(np.ones((2, 1)), unit=unit_keys(["a"])))
    with pytest.raises(RowsError, match="logged propensity of row 0, slot 1 is 0"):
        prefix_weights(target=[[0.5, 0.5]], logged=[[0.5, 0.0]], present=np.ones((1, 2), bool))
    with pytest.raises(RowsError, match="estimator 'ipz' is unknown; known: ips"):
        estimator("ipz")
    with pytest.raises(RowsError, match=r"level is 0\.7"):
        CATALOG["ips"].finish(CATALOG["ips"].moments(rows_for("ips")), 0.7)


def test_prefix_weights_carry_the_joint_weight_over_absent_slots() -> None:
    present = np.array([[True, True, True], [True, False, False]])
    weights = prefix_weights(target=[[0.5, 0.5, 1.0], [0.2, 0.0, 0.0]], logged=[[0.25, 1.0, 0.5], [0.4, 0.0, 0.0]], present=present)
    np.testing.assert_allclose(weights, [[2.0, 1.0, 2.0], [0.5, 0.5, 0.5]])


def test_unit_keys_are_those_of_the_ids_whatever_else_is_in_the_log() -> None:
    assert unit_keys(["a", "b", "a"]).tolist() == [*unit_keys(["a"]), *unit_keys(["b"]), *unit_keys(["a"])]
