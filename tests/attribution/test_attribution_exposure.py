"""Times of impressions are in the order of row and time, sorted as one number or, where that would not fit, as two."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attribution.exposure import _by_row


@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.integers(0, 9), st.integers(-(2**62), 2**62))), max_size=30))
def test_times_come_row_by_row_and_in_order_however_far_apart_they_are(entries: list[tuple[int, int]]) -> None:
    row, times = (np.array([entry[at] for entry in entries], dtype=kind) for at, kind in enumerate((np.uint32, np.int64)))
    assert _by_row(times, row=row, rows=4).tolist() == [time for _, time in sorted(entries)]
