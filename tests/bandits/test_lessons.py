"""What trees are taught is chosen on rows that they have not seen: the black box where scores are noise, scores where it errs."""

import numpy as np
import pytest

from bandits.personalise import lessons
from bandits.personalise.black_box import BlackBox, black_box
from bandits.personalise.boosting import binned, edges_of
from bandits.personalise.learners import Model, Rows
from bandits.personalise.lessons import SHARES, lesson

N = 1_500


def learned(noise: float) -> tuple[Rows, BlackBox, np.ndarray]:
    """Two arms; who gains follows the first of three columns; `noise` of the outcomes. The truth beside it, f64[n, 2]."""
    rng = np.random.default_rng(0)
    x, arm = rng.normal(size=(N, 3)), rng.integers(0, 2, N)
    truth = np.stack([np.zeros(N), np.where(x[:, 0] > 0.5, 1.0, -0.5)], axis=1)
    rows = Rows(x, truth[np.arange(N), arm] + noise * rng.normal(size=N), arm, np.full(N, 0.5), 2)
    return rows, black_box(rows), truth


def taught(rows: Rows, box: BlackBox, costs: tuple[float, float] = (0.0, 0.0)) -> lessons.Lesson:
    return lesson(box, rows, binned(rows.x, edges_of(rows.x)), np.array(costs), depth=2, least=30)


def test_a_black_box_that_has_it_the_wrong_way_round_is_not_what_trees_are_taught() -> None:
    rows, box, _ = learned(0.5)
    wrong = box._replace(inside=-box.inside, fold_models=tuple(tuple(_turned(model) for model in models) for models in box.fold_models))
    found = taught(rows, wrong)
    assert found.share == 1.0 and found.worth[1.0] > found.worth[0.0] + 0.3
    np.testing.assert_allclose(found.taught, box.scores - box.scores.mean(axis=1, keepdims=True))


def _turned(model: Model) -> Model:
    return lambda x: -model(x)


def test_the_black_box_teaches_where_scores_are_no_clearly_better() -> None:
    rows, box, truth = learned(3.0)
    found = taught(rows, box)
    assert set(found.worth) == set(SHARES)
    if found.share == 0.0:
        np.testing.assert_array_equal(found.taught, box.inside)
    assert np.corrcoef(found.taught[:, 1] - found.taught[:, 0], truth[:, 1])[0, 1] > 0.1


def test_costs_are_taken_off_what_is_taught_and_what_it_is_worth() -> None:
    rows, box, _ = learned(0.5)
    dear = taught(rows, box, (0.0, 5.0))
    scores = box.scores - box.scores.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(dear.taught, (1.0 - dear.share) * box.inside + dear.share * scores - [0.0, 5.0])
    # Nobody gains 5, so nobody is given the second arm, and scores of the first are all that it is worth.
    assert dear.worth[0.0] == pytest.approx(box.scores[:, 0].mean())


def test_of_many_rows_the_choice_is_made_on_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, box, _ = learned(0.5)
    monkeypatch.setattr(lessons, "_MOST_ROWS", 600)
    found = taught(rows, box)
    assert found.taught.shape == (N, 2) and found.worth != {}
