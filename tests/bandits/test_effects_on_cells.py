"""Regression on cells is regression on rows: coefficients and every error to 1e-8, for every kind of weights."""

import numpy as np
import pytest

from bandits.effects.bootstrap import bootstrapped, bootstrapped_clusters
from bandits.effects.cells import compress
from bandits.effects.design import assembled, factor_part, intercept, number_part
from bandits.effects.fit import ErrorKind, Fit, fit, normal
from bandits.effects.grouping import grouped
from bandits.effects.ridge_path import ridge_path
from bandits.errors import ExperimentError
from tests.bandits.effects_reference import regression

N, LEVELS = 4_000, ("a", "b", "c", "d")
RNG = np.random.default_rng(11)
# A number far from zero, whose squares would lose eight digits if they were not standardised first.
YEAR = 2_000.0 + RNG.integers(0, 6, N)
CODES = RNG.integers(0, 4, N).astype(np.int32)
CLUSTER = RNG.integers(0, 50, N)
Y = 1e4 + 0.3 * YEAR + CODES + RNG.normal(0, 1.0 + CODES, N) + RNG.normal(size=50)[CLUSTER]
ROWS = np.column_stack([np.ones(N), YEAR, *(level == CODES for level in (1, 2, 3))]).astype(float)
KINDS: tuple[ErrorKind, ...] = ("homoskedastic", "hc0", "hc1", "cluster")


def on_cells(weight: np.ndarray | None = None, *, frequency: bool = False) -> tuple[Fit, int]:
    cells = compress({"year": YEAR, "code": CODES}, {"y": Y}, weight=weight, frequency=frequency, cluster=CLUSTER)
    w = cells.sums["y"].weight
    design = assembled(
        [intercept(cells.size), number_part("year", cells.columns["year"], w), factor_part("code", cells.columns["code"], LEVELS)]
    )
    return fit(normal(design, w), cells, "y", errors=KINDS), cells.size


def assert_same(found: Fit, weight: np.ndarray | None, kind: str) -> None:
    wanted = regression(ROWS, Y, weight=weight, kind=kind, cluster=CLUSTER)
    np.testing.assert_allclose(found.coefficient, wanted.coefficient, rtol=1e-8)
    for each in KINDS:
        np.testing.assert_allclose(found.error(each), np.sqrt(np.diagonal(wanted.covariance[each])), rtol=1e-8, err_msg=each)


def test_without_weights_24_cells_give_what_4000_rows_give() -> None:
    found, cells = on_cells()
    assert cells == 24
    assert_same(found, None, "analytic")


def test_clusters_of_few_rows_a_cell_are_kept_row_by_row_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from bandits.effects import cells

    monkeypatch.setattr(cells, "_PARTS_A_ROW", 0)
    assert_same(on_cells()[0], None, "analytic")


def test_a_frequency_is_so_many_rows() -> None:
    weight = RNG.integers(0, 4, N).astype(float)
    found, _ = on_cells(weight, frequency=True)
    assert found.rows == weight.sum()
    assert_same(found, weight, "frequency")


def test_analytic_and_probability_weights_square_in_the_robust_errors_and_their_scale_means_nothing() -> None:
    weight = RNG.uniform(0.2, 3.0, N)
    found, _ = on_cells(weight)
    assert_same(found, weight, "analytic")
    scaled, _ = on_cells(1e3 * weight)
    np.testing.assert_allclose(scaled.error("hc1"), found.error("hc1"), rtol=1e-9)
    np.testing.assert_allclose(scaled.error("homoskedastic"), found.error("homoskedastic"), rtol=1e-9)


def test_taking_a_frequency_for_an_analytic_weight_gives_another_error() -> None:
    weight = RNG.integers(1, 4, N).astype(float)
    frequency, analytic = on_cells(weight, frequency=True)[0], on_cells(weight)[0]
    np.testing.assert_allclose(frequency.coefficient, analytic.coefficient, rtol=1e-9)
    assert np.all(np.abs(frequency.error("hc1") / analytic.error("hc1") - 1.0) > 0.05)


def test_a_ridge_solves_its_equations_and_its_errors_are_the_sandwich_of_rows() -> None:
    cells = compress({"year": YEAR}, {"y": Y})
    w = cells.sums["y"].weight
    design = assembled([intercept(cells.size), number_part("year", cells.columns["year"], w)])
    found = fit(normal(design, w, penalty=0.2), cells, "y", errors=("hc0",))
    z = np.column_stack([np.ones(N), (YEAR - YEAR.mean()) / YEAR.std()])
    bread = np.linalg.inv(z.T @ z + np.diag([0.0, 0.2 * N]))
    b = bread @ z.T @ Y
    scores = z * (Y - z @ b)[:, None]
    slope = b[1] / YEAR.std(), np.sqrt((bread @ scores.T @ scores @ bread)[1, 1]) / YEAR.std()
    np.testing.assert_allclose((found.coefficient[1], found.error("hc0")[1]), slope, rtol=1e-8)


def test_a_factor_of_many_levels_stays_sparse_and_gives_the_same() -> None:
    many = RNG.integers(0, 150, N).astype(np.int32)
    cells = compress({"many": many}, {"y": Y})
    part = factor_part("many", cells.columns["many"], [str(level) for level in range(150)])
    design = assembled([intercept(cells.size), part])
    assert not isinstance(design.matrix, np.ndarray)
    found = fit(normal(design, cells.sums["y"].weight), cells, "y", errors=("hc1",))
    wanted = regression((np.arange(150) == many[:, None]).astype(float), Y)
    np.testing.assert_allclose(found.coefficient[1:], wanted.coefficient[1:] - wanted.coefficient[0], rtol=1e-6, atol=1e-8)


def test_columns_that_say_nothing_are_dropped_by_name() -> None:
    cells = compress({"year": YEAR}, {"y": Y})
    w, year = cells.sums["y"].weight, cells.columns["year"]
    parts = [intercept(cells.size), number_part("year", year, w), number_part("months", 12 * year - 3, w), number_part("one", 0 * year, w)]
    found = normal(assembled(parts), w)
    assert [(each.column, each.because, each.of) for each in found.dropped] == [
        ("months", "collinear", ("year",)),
        ("one", "constant", ()),
    ]
    assert found.design.names == ("intercept", "year")


def test_a_ridge_path_is_the_ridge_of_each_penalty() -> None:
    cells = compress({"year": YEAR, "code": CODES}, {"y": Y})
    w = cells.sums["y"].weight
    year, code = number_part("year", cells.columns["year"], w), factor_part("code", cells.columns["code"], LEVELS)
    design, penalised = assembled([intercept(cells.size), year, code]), np.array([False, True, False, True, True])
    path = ridge_path(normal(design, w), cells, "y", penalties=[0.0, 0.01, 3.0], penalised=penalised)
    for penalty, coefficient in zip([0.0, 0.01, 3.0], path, strict=True):
        alone = fit(normal(design, w, penalty=penalty, penalised=penalised), cells, "y", errors=("hc0",))
        np.testing.assert_allclose(coefficient, alone.coefficient, rtol=1e-8)
    assert abs(path[2, 1]) < abs(path[0, 1])


def test_a_bootstrap_on_cells_has_the_spread_of_robust_errors() -> None:
    """Fixed key; 400 draws estimate a deviation to 3.5 %: at 18 % a false alarm has probability 1e-6."""
    rounded = np.round(Y)
    cells = compress({"year": YEAR, "y": rounded}, {"y": rounded})
    w = cells.sums["y"].weight
    design = assembled([intercept(cells.size), number_part("year", cells.columns["year"], w)])
    drawn = bootstrapped(cells, design, "y", draws=400, rng=np.random.default_rng(3))
    found = fit(normal(design, w), cells, "y", errors=("hc0",))
    np.testing.assert_allclose(drawn.std(axis=0) / found.error("hc0"), 1.0, atol=0.18)
    np.testing.assert_allclose(drawn.mean(axis=0), found.coefficient, atol=5 * found.error("hc0")[1] * 2_005 / 20)
    with pytest.raises(ExperimentError, match="varies within a cell"):
        mixed = compress({"year": YEAR}, {"y": Y})
        bootstrapped(mixed, design, "y", draws=1, rng=np.random.default_rng(0))


def test_a_bootstrap_of_clusters_has_the_spread_of_clustered_errors() -> None:
    """Fixed key; 400 draws estimate a deviation to 3.5 %: at 18 % a false alarm has probability 1e-6. Rows alone would say half."""
    village = np.arange(N) % 40
    y = Y + 4.0 * RNG.normal(size=40)[village] * (YEAR - YEAR.mean())
    cells = compress({"year": YEAR}, {"y": y}, cluster=village)
    w = cells.sums["y"].weight
    design = assembled([intercept(cells.size), number_part("year", cells.columns["year"], w)])
    drawn = bootstrapped_clusters(cells, design, "y", draws=400, rng=np.random.default_rng(4))
    found = fit(normal(design, w), cells, "y", errors=("cluster", "hc1"))
    ratio = drawn.std(axis=0)[1] / found.error("cluster")[1]
    assert abs(ratio - 1.0) < 0.18 and found.error("hc1")[1] < 0.8 * found.error("cluster")[1]


def test_hc2_and_hc3_divide_squared_residuals_by_what_leverage_leaves() -> None:
    cells = compress({"year": YEAR, "code": CODES}, {"y": Y})
    w = cells.sums["y"].weight
    parts = [intercept(cells.size), number_part("year", cells.columns["year"], w), factor_part("code", cells.columns["code"], LEVELS)]
    found = fit(normal(assembled(parts), w), cells, "y", errors=("hc2", "hc3"))
    x = np.column_stack([np.ones(N), YEAR, *(code == CODES for code in np.unique(CODES)[1:])]).astype(float)
    bread = np.linalg.inv(x.T @ x)
    e, h = Y - x @ (bread @ x.T @ Y), np.sum((x @ bread) * x, axis=1)
    for kind, power in (("hc2", 1), ("hc3", 2)):
        wanted = bread @ (x * (e**2 / (1 - h) ** power)[:, None]).T @ x @ bread
        np.testing.assert_allclose(found.error(kind), np.sqrt(np.diag(wanted)), rtol=1e-8)
    alone = compress({"year": np.r_[0.0, 1.0, 1.0, 1.0]}, {"y": np.arange(4.0)})
    w = alone.sums["y"].weight
    with pytest.raises(ExperimentError, match="one row alone"):
        fit(normal(assembled([intercept(2), number_part("year", alone.columns["year"], w)]), w), alone, "y", errors=("hc3",))


def test_no_more_rows_than_columns_are_refused() -> None:
    cells = compress({"x": np.array([1.0, 2.0])}, {"y": np.array([1.0, 2.0])})
    w = cells.sums["y"].weight
    with pytest.raises(ExperimentError, match="2 columns for 2 rows"):
        fit(normal(assembled([intercept(2), number_part("x", cells.columns["x"], w)]), w), cells, "y")


def test_rows_are_grouped_as_unique_rows_are_and_zero_has_one_sign() -> None:
    columns = [np.array([0.0, -0.0, 1.0, 0.0]), np.array([3, 3, 3, -1], np.int32)]
    groups = grouped(columns, rows=4)
    np.testing.assert_array_equal(groups.code, [0, 0, 1, 2])
    np.testing.assert_array_equal(groups.first, [0, 2, 3])


def test_two_different_rows_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from bandits.effects import grouping

    honest = grouping._hashes
    monkeypatch.setattr(grouping, "_weighed", lambda columns: np.zeros(N, np.uint64))
    monkeypatch.setattr(grouping, "_hashes", lambda columns, salt: np.zeros(N, np.uint64) if salt == 1 else honest(columns, salt))
    assert len(grouped([YEAR, CODES], rows=N).first) == 24


# Ranges of whole numbers: bits that share bytes, bytes that share a number, more than one number holds, signs, and nothing at all.
@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 1)] * 20,
        [(0, 5)] * 4,
        [(-128, 127), (-1, 0), (100, 127)],
        [(-7, 8)] * 3 + [(0, 200)],
        [(0, 100)] * 15,
        [(3, 3), (0, 1)],
        [(5, 5), (0, 0)],
    ],
)
@pytest.mark.parametrize("kind", [np.float64, np.int32])
def test_small_whole_numbers_are_told_apart_as_by_a_sort(ranges: list[tuple[int, int]], kind: type) -> None:
    rng = np.random.default_rng(7)
    few = [rng.integers(low, high, 40, endpoint=True) for low, high in ranges]
    columns = [values[rng.integers(0, 40, 70_000) if len(ranges) < 9 else np.arange(70_000) % 40].astype(kind) for values in few]
    groups = grouped(columns, rows=70_000)
    _, first, code = np.unique(np.stack(columns), axis=1, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(np.sort(first), groups.first)
    np.testing.assert_array_equal(first[code.ravel()], groups.first[groups.code])


def test_a_column_that_is_small_and_whole_in_its_first_rows_only_is_told_apart() -> None:
    rows = 70_000
    columns = [np.zeros(rows), np.arange(rows) % 2.0]
    columns[0][-3:] = 0.5, 300.0, 1e300
    assert len(grouped(columns, rows=rows).first) == 5


def test_parts_of_cells_come_by_cluster_however_many_there_are() -> None:
    rng = np.random.default_rng(5)
    cluster, x = rng.permutation(np.repeat(np.arange(140_000), 2)), rng.integers(0, 2, 280_000)
    parts = compress({"x": x}, {"y": rng.normal(size=280_000)}, cluster=cluster).clustered
    assert parts is not None
    np.testing.assert_array_equal(parts.cluster[parts.starts[:-1]], np.arange(140_000))
    assert parts.sums["y"].weight.sum() == 280_000


@pytest.mark.parametrize("large", [1e300, 2.0**60, np.inf])
def test_small_columns_beside_ones_that_drown_them_in_a_sum_are_told_apart(large: float) -> None:
    columns = [np.full(6, large), np.array([0.0, 1.0, 0.0, 1.0, 2.0, 0.0]), np.arange(6) // 5]
    groups = grouped(columns, rows=6)
    np.testing.assert_array_equal(groups.code, [0, 1, 0, 1, 2, 3])
    np.testing.assert_array_equal(groups.first, [0, 1, 4, 5])


def test_groups_of_many_rows_are_those_of_a_sort() -> None:
    rng = np.random.default_rng(3)
    # More rows than are looked at together, and numbers whose sums round.
    columns = [rng.integers(0, 3, 100_000) / 7, rng.integers(0, 4, 100_000), rng.integers(0, 2, 100_000) * 1e9]
    groups, (rows, first, code) = (
        grouped(columns, rows=100_000),
        np.unique(np.stack(columns), axis=1, return_index=True, return_inverse=True),
    )
    assert len(rows.T) == len(groups.first) == 24
    np.testing.assert_array_equal(np.sort(first), groups.first)
    np.testing.assert_array_equal(first[code.ravel()], groups.first[groups.code])
