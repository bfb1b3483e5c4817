"""Many estimators in one pass give what each gives alone."""

import numpy as np
import pytest

from ope.errors import RowsError
from ope.estimators import CATALOG, SLATE_ESTIMATORS, estimator
from ope.moments import Moments
from ope.panel import Panel
from ope.rows import Batch
from tests.ope.slow_reference import example

SINGLE = [*(name for name in CATALOG if name not in SLATE_ESTIMATORS), "switch_dr:slope", "dros:25"]


def cut(batch: Batch, place: int) -> list[Batch]:
    return [Batch(*(None if x is None else x[part] for x in batch)) for part in (slice(0, place), slice(place, None))]


def assert_same(panel: Panel, names: list[str], batches: list[Batch]) -> None:
    for name, found in zip(names, panel.moments(), strict=True):
        entry = estimator(name)
        alone = entry.moments(batches[0])
        for batch in batches[1:]:
            alone = entry.merge(alone, entry.moments(batch))
        for field, one, other in zip(Moments._fields, found, alone, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11, err_msg=f"{name} {field}")


@pytest.mark.parametrize("units", [None, 30])
@pytest.mark.parametrize("names", [SINGLE, list(SLATE_ESTIMATORS)], ids=["single", "slates"])
def test_the_moments_are_each_estimators_own(names: list[str], units: int | None) -> None:
    batches = cut(example(seed=1, rows=500, slots=1 if names is SINGLE else 3, units=units), 180)
    panel = Panel([estimator(name) for name in names])
    for batch in batches:
        panel.add(batch)
    assert_same(panel, names, batches)


def test_slates_that_grow_longer_and_rows_with_and_without_a_unit_meet() -> None:
    names = list(SLATE_ESTIMATORS)
    batches = [example(seed=slots, rows=90, slots=slots, units=units) for slots, units in ((2, 9), (3, 9), (3, None), (2, None))]
    panel = Panel([estimator(name) for name in names])
    for batch in batches:
        panel.add(batch)
    assert_same(panel, names, batches)


def test_no_rows_and_a_missing_array_are_refused() -> None:
    panel = Panel([estimator("dr")])
    with pytest.raises(RowsError, match="none were given"):
        panel.moments()
    with pytest.raises(RowsError, match="q_logged is None; `dr` needs it"):
        panel.add(example(seed=0, rows=5, slots=1, units=None)._replace(q_logged=None))
