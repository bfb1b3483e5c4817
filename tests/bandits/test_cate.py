"""Effects by covariates: right to their own errors, and intervals that hold as often as they say."""

import numpy as np
import pytest

from bandits.errors import ExperimentError
from bandits.personalise.cate import cate, lines, splines
from bandits.personalise.learners import Ridge, Rows, s_learner, t_learner

POINTS = np.array([[0.0, 0.0], [1.0, -1.0], [-1.5, 0.5]])


def experiment(n: int, seed: int) -> Rows:
    """Effects 0.5 + x0 and 1 - x1 of two arms, whose probabilities depend on x0; noise that grows with x1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    p = np.where(x[:, :1] > 0, [0.5, 0.25, 0.25], [0.2, 0.4, 0.4])
    arm = (rng.random(n)[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    truth = np.stack([np.zeros(n), 0.5 + x[:, 0], 1.0 - x[:, 1]], axis=1) + np.sin(2 * x[:, :1])
    y = truth[np.arange(n), arm] + rng.normal(size=n) * (1.0 + 0.5 * np.abs(x[:, 1]))
    return Rows(x, y, arm, p[np.arange(n), arm], 3)


TRUTH = np.stack([0.5 + POINTS[:, 0], 1.0 - POINTS[:, 1]], axis=1)


def test_effects_are_right_to_five_of_their_errors_even_with_a_poor_outcome_model() -> None:
    """Fixed key; 12 comparisons at 5 standard errors: false alarm 7e-6. An unweighted comparison of arms would be off by 10 of them."""
    for outcome in (t_learner(Ridge), s_learner(Ridge)):
        values, errors = cate(experiment(20_000, 0), outcome=outcome, basis=lines).effects(POINTS)
        assert np.all(np.abs(values - TRUTH) < 5 * errors) and np.all(errors < 0.15)


def test_the_average_effect_is_the_mean_of_the_effects_and_a_splines_bend_is_found() -> None:
    rows = experiment(8_000, 1)
    found = cate(rows, outcome=t_learner(Ridge), basis=splines([[0.0], []]))
    assert found.fits[0].coefficient.shape == (4,)
    value, error = found.average(rows.x)
    np.testing.assert_allclose(value, found.effects(rows.x)[0].mean(axis=0), rtol=1e-9)
    assert np.all(np.abs(value - [0.5, 1.0]) < 5 * error)
    bent = rows._replace(y=rows.y + (rows.arm == 1) * 3.0 * np.maximum(rows.x[:, 0], 0.0))
    coefficient = cate(bent, outcome=t_learner(Ridge), basis=splines([[0.0], []])).fits[0].coefficient
    assert coefficient[2] == pytest.approx(3.0, abs=0.5)


def test_a_basis_that_repeats_itself_is_refused() -> None:
    with pytest.raises(ExperimentError, match="column 2 is collinear"):
        cate(experiment(300, 0), outcome=t_learner(Ridge), basis=lambda x: np.column_stack([x, x[:, 0] + x[:, 1]]))


@pytest.mark.slow
def test_intervals_at_95_percent_hold_in_93_to_97_percent_of_a_thousand_runs() -> None:
    """Average effects and effects at three points; at a true 95 % a coverage leaves 93..97 % with probability 3e-3 each, by seed fixed."""
    held = np.zeros((4, 2))
    for seed in range(1_000):
        rows = experiment(1_000, 1_000 + seed)
        found = cate(rows, outcome=t_learner(Ridge), basis=lines)
        for place, (values, errors, truth) in enumerate([(*found.effects(POINTS), TRUTH), (*found.average(np.zeros((1, 2))), [0.5, 1.0])]):
            inside = np.abs(values - truth) <= 1.96 * errors
            held[:3] += inside if place == 0 else 0
            held[3] += inside if place == 1 else 0
    assert np.all((held / 1_000 > 0.93) & (held / 1_000 < 0.97)), held / 1_000
