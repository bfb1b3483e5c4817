"""The salted hash of a unit, as PlanOut computes it, so that others can tell a unit's arm from the salts alone. Pure.

    hash(salt, unit) = the first 15 hex digits of SHA-1("<salt>.<unit>"), as an integer
    uniform          = hash / (16^15 - 1)

Source: Bakshy, Eckles, Bernstein, "Designing and deploying online field experiments", WWW 2014, and PlanOut 0.6.0, whose salts are
`<experiment>.<parameter>`. PlanOut takes ASCII; of other units and salts the UTF-8 bytes are hashed here.
"""

import hashlib
import math

__all__ = ["POINTS", "hashed", "point", "segment", "uniform"]

_DIGITS = 15
_LARGEST = float(16**_DIGITS - 1)
#: Points that arms are dealt in: a share is a multiple of a millionth.
POINTS = 1_000_000


def hashed(salt: str, unit: str) -> int:
    """An integer in [0, 16^15)."""
    return int(hashlib.sha1(f"{salt}.{unit}".encode(), usedforsecurity=False).hexdigest()[:_DIGITS], 16)


def uniform(salt: str, unit: str) -> float:
    """A number in [0, 1]: PlanOut's RandomFloat(0, 1) under `full_salt`."""
    return hashed(salt, unit) / _LARGEST


def point(salt: str, unit: str) -> int:
    """The unit's place among POINTS: k where uniform is in (k, k + 1] / POINTS, so that PlanOut's WeightedChoice deals the same."""
    return max(math.ceil(uniform(salt, unit) * POINTS) - 1, 0)


def segment(salt: str, unit: str, *, segments: int) -> int:
    """The unit's segment, in [0, segments): PlanOut's RandomInteger(0, segments - 1)."""
    return hashed(salt, unit) % segments
