"""The intervals beside the delta method's: identities, agreement with slower ways, and what each promises."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from ope import confidence_sequence
from ope.errors import RowsError
from ope.estimators import CATALOG, estimator
from ope.intervals import STUDENT_T, Interval, empirical_bernstein, sequential
from ope.paired import paired
from ope.resampling import EMPIRICAL_LIKELIHOOD, poisson_bootstrap, poisson_counts
from ope.rows import Batch, dealt
from tests.ope.slow_reference import example

LEVEL = 0.05
INTERVALS: dict[str, Interval] = {
    "student-t": STUDENT_T,
    "bootstrap": poisson_bootstrap(replicates=400),
    "likelihood": EMPIRICAL_LIKELIHOOD,
    "bernstein": empirical_bernstein(low=0.0, high=20.0),
    "sequence": sequential(tuned_for=40),
}


def rows(*, seed: int = 0, slots: int = 1, n: int = 600, units: int | None = 200) -> Batch:
    return example(seed=seed, rows=n, slots=slots, units=units)


@pytest.mark.parametrize("kind", sorted(INTERVALS))
@pytest.mark.parametrize("name", ["snips", "dr", "sndr"])
def test_every_interval_is_had_of_a_value_and_of_a_paired_difference(name: str, kind: str) -> None:
    entry, batch, interval = estimator(name), rows(), INTERVALS[kind]
    value = entry.finish(entry.moments(batch), LEVEL, interval)
    pair = paired(entry)
    found = pair.finish(pair.moments(batch, batch._replace(weight=rows(seed=1).weight)), LEVEL, interval).difference
    for estimate in (value, found):
        assert estimate.lower < estimate.value < estimate.upper and estimate.interval == interval.kind


@pytest.mark.parametrize("kind", ["bootstrap", "likelihood", "student-t"])
@pytest.mark.parametrize("name", sorted(CATALOG))
def test_twins_differ_by_exactly_nothing(name: str, kind: str) -> None:
    batch, pair = rows(slots=3 if "weight" in CATALOG[name].needs and name in ("rips", "sips") else 1), paired(estimator(name))
    found = pair.finish(pair.moments(batch, batch), LEVEL, INTERVALS[kind]).difference
    assert (found.lower, found.upper) == (0.0, 0.0)


def test_bootstrap_and_likelihood_are_near_the_delta_method_where_it_is_right() -> None:
    # Rewards without tails, 2,000 units: all three are the same interval to first order. 400 replicates give an end to 5 % of the width.
    rng = np.random.default_rng(3)
    batch = Batch(
        rng.binomial(1, 0.3, (4000, 1)).astype(float), rng.choice([0.5, 1.5], (4000, 1)), unit=np.arange(4000, dtype=np.uint64) // 2
    )
    entry = estimator("snips")
    moments = entry.moments(batch)
    delta = entry.finish(moments, LEVEL)
    for kind, within in (("bootstrap", 0.12), ("likelihood", 0.02)):
        other = entry.finish(moments, LEVEL, INTERVALS[kind])
        assert other.lower == pytest.approx(delta.lower, abs=within * (delta.upper - delta.lower))
        assert other.upper == pytest.approx(delta.upper, abs=within * (delta.upper - delta.lower))


def test_the_likelihood_interval_of_a_mean_is_owens() -> None:
    reward = np.random.default_rng(4).exponential(size=30)
    entry = estimator("ips")
    moments = entry.moments(Batch(reward[:, None], np.ones((30, 1)), unit=np.arange(30, dtype=np.uint64)))
    found = entry.finish(moments, LEVEL, EMPIRICAL_LIKELIHOOD)

    def deviance(mean: float) -> float:
        # Directly: the likeliest shares of the rows that have this mean.
        constraints = [{"type": "eq", "fun": lambda p: p.sum() - 1}, {"type": "eq", "fun": lambda p: p @ reward - mean}]
        best = optimize.minimize(lambda p: -np.log(30 * p).sum(), np.full(30, 1 / 30), bounds=[(1e-9, 1)] * 30, constraints=constraints)
        return 2 * float(best.fun)

    for end in (found.lower, found.upper):
        assert deviance(end) == pytest.approx(stats.f.isf(LEVEL, 1, 29), rel=1e-3)
    # A skewed mean is missed more often on the right: the interval knows.
    assert found.upper - found.value > found.value - found.lower


def test_bootstrap_counts_follow_from_the_unit_alone_and_are_poisson() -> None:
    unit = np.random.default_rng(0).integers(0, 2**63, 500).astype(np.uint64)
    counts = poisson_counts(unit, replicates=range(200), seed=1)
    np.testing.assert_array_equal(poisson_counts(unit[::-1], replicates=range(200), seed=1), counts[:, ::-1])
    # 100,000 counts: standard errors are 0.0032 of the mean and 0.0055 of the variance; the bounds are six of them.
    assert counts.mean() == pytest.approx(1.0, abs=0.02) and counts.var() == pytest.approx(1.0, abs=0.035)
    assert (
        abs(np.corrcoef(counts[:, 0], counts[:, 1])[0, 1]) < 0.45 and (poisson_counts(unit, replicates=range(200), seed=2) != counts).any()
    )


def test_however_a_log_is_cut_the_bootstrap_is_the_same() -> None:
    batch, entry = rows(), estimator("dr")
    halves = [Batch(*(None if x is None else x[part] for x in batch)) for part in (slice(0, 250), slice(250, 600))]
    whole, merged = (
        entry.finish(m, LEVEL, INTERVALS["bootstrap"]) for m in (entry.moments(batch), entry.merge(*map(entry.moments, halves)))
    )
    assert (whole.lower, whole.upper) == pytest.approx((merged.lower, merged.upper), rel=1e-11)


def test_rows_without_a_unit_are_dealt_into_groups_and_refused_where_they_are_not() -> None:
    batch, entry = rows(n=9000, units=None), estimator("snips")
    with pytest.raises(RowsError, match="rows kept by unit"):
        entry.finish(entry.moments(batch), LEVEL, EMPIRICAL_LIKELIHOOD)
    parts = [
        dealt(Batch(*(None if x is None else x[part] for x in batch)), first=part.start) for part in (slice(0, 5000), slice(5000, 9000))
    ]
    moments = entry.merge(*map(entry.moments, parts))
    assert len(moments.unit) == 4096
    plain, grouped = entry.finish(entry.moments(batch), LEVEL), entry.finish(moments, LEVEL)
    # The error of 4,096 groups is known to 1 / sqrt(8,192) = 1.1 % of itself; the bound is four of that.
    assert grouped.value == pytest.approx(plain.value, rel=1e-12) and grouped.standard_error == pytest.approx(
        plain.standard_error, rel=0.05
    )


def test_empirical_bernstein_is_its_formula() -> None:
    reward = np.random.default_rng(5).random(50)
    entry = estimator("ips")
    found = entry.finish(entry.moments(Batch(reward[:, None], np.ones((50, 1)))), 0.1, empirical_bernstein(low=0.0, high=1.0))
    log = math.log(2 / 0.05)
    half = math.sqrt(2 * reward.var(ddof=1) * log / 50) + 7 * log / (3 * 49)
    assert found.upper - found.value == pytest.approx(half, rel=1e-12)


def slow_sequence(x: np.ndarray, level: float) -> tuple[float, float]:
    """One contribution in [0, 1] at a time."""
    log, mean, spread, total, bets, paid, price = math.log(2 / level), 0.5, 0.25, 0.5, 0.0, 0.0, 0.0
    squares = 0.25
    for t, value in enumerate(x.tolist(), start=1):
        bet = min(0.5, math.sqrt(2 * log / (spread * t * math.log(1 + t))))
        price += 4 * (value - mean) ** 2 * (-math.log(1 - bet) - bet) / 4
        bets, paid, total = bets + bet, paid + bet * value, total + value
        mean = total / (t + 1)
        squares += (value - mean) ** 2
        spread = squares / (t + 1)
    return paid / bets - (log + price) / bets, paid / bets + (log + price) / bets


def test_the_sequence_is_the_slow_one_however_it_is_cut() -> None:
    x = np.random.default_rng(6).beta(2, 5, 700)
    state = confidence_sequence.begin(low=-1.0, high=3.0, level=LEVEL)
    for part in (x[:0], x[:1], x[1:300], x[300:]):
        state = confidence_sequence.extend(state, part * 4 - 1)
    expected = [at * 4 - 1 for at in slow_sequence(x, LEVEL)]
    assert confidence_sequence.ends(state) == pytest.approx(expected, rel=1e-10)


def test_the_sequence_misses_at_no_look_more_often_than_it_says_and_a_fixed_interval_does() -> None:
    # 400 runs of 200 rows from the first on, rewards 0 or 1 with probability 0.05. At a true rate of 5 % more than 40 misses come with
    # probability 1e-5; the sequence misses far less. A fixed Student-t interval, looked at after each row from the tenth, misses in most.
    rng, missed, fixed = np.random.default_rng(7), 0, 0
    for _ in range(400):
        x = rng.binomial(1, 0.05, 200).astype(float)
        state, out = confidence_sequence.begin(low=0.0, high=1.0, level=LEVEL), False
        for at in range(0, 200, 10):
            state = confidence_sequence.extend(state, x[at : at + 10])
            lower, upper = confidence_sequence.ends(state)
            out |= not lower <= 0.05 <= upper
        missed += out
        n = np.arange(10, 201)
        mean = np.cumsum(x)[9:] / n
        half = stats.t.isf(0.025, n - 1) * np.sqrt(mean * (1 - mean) / (n - 1))
        fixed += bool((np.abs(mean - 0.05) > half).any())
    assert missed <= 40 and fixed >= 200


def test_contributions_out_of_bounds_are_refused() -> None:
    state = confidence_sequence.begin(low=0.0, high=1.0, level=LEVEL)
    for bad in (1.5, math.nan):
        with pytest.raises(RowsError, match="contribution 1 is"):
            confidence_sequence.extend(state, np.array([0.5, bad]))
    with pytest.raises(RowsError, match=r"bounds are \[0, inf\]"):
        confidence_sequence.begin(low=0, high=math.inf, level=LEVEL)
    with pytest.raises(RowsError, match=r"level is 0\.5"):
        confidence_sequence.begin(low=0, high=1, level=0.5)
