"""Keys that come more than once are found by sorting as they are by counting."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from attribution.repeats import repeats


@given(st.lists(st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1)), max_size=30))
def test_what_repeats_is_what_counting_says(keys: list[int]) -> None:
    series = pl.Series("key", keys, dtype=pl.UInt64)
    expected = series.is_duplicated() if keys else series.is_null()
    found = repeats(series)
    assert (found is None) == (not expected.any())
    assert found is None or found.to_list() == expected.to_list()
