"""The intervals by the names that commands take. Pure."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from ope.errors import RowsError
from ope.intervals import STUDENT_T, Interval, empirical_bernstein, predictable_mixture, sequential
from ope.resampling import EMPIRICAL_LIKELIHOOD, poisson_bootstrap

__all__ = ["BOUNDED", "INTERVALS", "interval_of"]

# Units at which the sequence is narrowest, where nobody says another number.
_TUNED_FOR = 10_000


class _OfSpan(Protocol):
    def __call__(self, *, low: float, high: float) -> Interval: ...


INTERVALS: Mapping[str, Callable[[], Interval]] = MappingProxyType(
    {
        "student-t": lambda: STUDENT_T,
        "bootstrap": poisson_bootstrap,
        "likelihood": lambda: EMPIRICAL_LIKELIHOOD,
        "sequence": lambda: sequential(tuned_for=_TUNED_FOR),
    }
)
# Those that need to be told between which numbers a contribution lies.
BOUNDED: Mapping[str, _OfSpan] = MappingProxyType({"empirical_bernstein": empirical_bernstein, "predictable_mixture": predictable_mixture})


def interval_of(name: str, *, span: tuple[float, float] | None = None) -> Interval:
    """The interval of that name; `span` (low, high) of a contribution for those of BOUNDED.

    Raises RowsError with the known names, for a span that is missing or makes no sense, and for one that the interval does not ask for.
    """
    if name not in INTERVALS and name not in BOUNDED:
        raise RowsError(f"interval {name!r} is unknown; known: {', '.join((*INTERVALS, *BOUNDED))}")
    if name in INTERVALS:
        if span is not None:
            raise RowsError(
                f"--span {span[0]:g} {span[1]:g}: interval {name!r} asks for none; leave it out, or take {' or '.join(BOUNDED)}"
            )
        return INTERVALS[name]()
    if span is None:
        raise RowsError(
            f"--span: not given; interval {name!r} needs LOW HIGH, between which every contribution lies: for ips, of rows that are their "
            "own unit, 0 and largest weight x largest reward"
        )
    return BOUNDED[name](low=span[0], high=span[1])
