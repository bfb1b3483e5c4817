"""Whom the engine and the calls tell what they did: metrics and traces listen, and a notebook needs none of them."""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Observed", "Observer"]


class Observed(NamedTuple):
    """One batch: requests in it, how many of them were decided, and the seconds that its stages took."""

    requests: int
    decided: int
    admit_s: float
    decide_s: float
    append_s: float


class Observer:
    """Hears everything and keeps nothing; others replace what they want to hear. Its time stands still, which costs nothing."""

    def timer(self) -> float:
        """Seconds of a clock that only goes forward."""
        return 0.0

    def ended(self, method: str, code: str, seconds: float) -> None:
        """A call ended with a status, so many seconds after it arrived."""

    def ended_together(self, method: str, codes: Sequence[str], seconds: Sequence[float]) -> None:
        """Calls of a method ended; as `ended` for each."""
        for code, took_s in zip(codes, seconds, strict=True):
            self.ended(method, code, took_s)

    def batch(self, observed: Observed) -> None:
        """A batch was decided, logged and answered."""

    def refused(self, code: str) -> None:
        """A request got no answer but an error."""

    def fell_back(self) -> None:
        """An unlogged fallback was answered."""
