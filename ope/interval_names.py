"""The intervals that need no number of the reader's, by the names that commands take. Pure."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ope.errors import RowsError
from ope.intervals import STUDENT_T, Interval, sequential
from ope.resampling import EMPIRICAL_LIKELIHOOD, poisson_bootstrap

__all__ = ["INTERVALS", "interval_of"]

# Units at which the sequence is narrowest, where nobody says another number.
_TUNED_FOR = 10_000

INTERVALS: Mapping[str, Callable[[], Interval]] = MappingProxyType(
    {
        "student-t": lambda: STUDENT_T,
        "bootstrap": poisson_bootstrap,
        "likelihood": lambda: EMPIRICAL_LIKELIHOOD,
        "sequence": lambda: sequential(tuned_for=_TUNED_FOR),
    }
)


def interval_of(name: str) -> Interval:
    """The interval of that name. Raises RowsError with the known names."""
    if name not in INTERVALS:
        raise RowsError(f"interval {name!r} is unknown; known: {', '.join(INTERVALS)}")
    return INTERVALS[name]()
