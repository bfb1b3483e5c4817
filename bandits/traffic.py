"""Who is decided by whom while a challenger has a share of the traffic: a salted hash of the unit. Pure.

A unit is a point in [0, 1), fixed by the salt; the challenger decides for the points below its share. So a unit keeps its arm from
request to request, a larger share moves only the units between the old share and the new one, and another salt deals anew.
"""

import hashlib
from typing import NamedTuple

__all__ = ["CHALLENGER_ARM", "CHAMPION_ARM", "PINNED_ARM", "SHARES", "Assignment", "Split", "assign", "whole"]

CHAMPION_ARM = "champion"
CHALLENGER_ARM = "challenger"
# A request that names its snapshot is in no arm: nothing was drawn.
PINNED_ARM = "pinned"
#: Steps of a staged promotion; the last one moves the champion.
SHARES = (0.01, 0.10, 0.50, 1.0)
# Points of [0, 1): as many as float64 tells apart, so that a probability is exact.
_POINT_BITS = 53


class Split(NamedTuple):
    """A challenger's part of the traffic: the digest of its snapshot, its share in (0, 1), and the salt of the contest."""

    challenger: str
    share: float
    salt: str


class Assignment(NamedTuple):
    """The arm of a unit, and the probability, in (0, 1], with which a unit is in it."""

    arm: str
    probability: float


def whole(arm: str = CHAMPION_ARM) -> Assignment:
    """An arm that is not drawn: everyone is in it."""
    return Assignment(arm, 1.0)


def assign(*, task: str, unit_id: str, split: Split | None) -> Assignment:
    """The arm of a unit; without a split, the champion's with probability 1.

    The probability is a multiple of 2^-53, and exactly the share of the points that fall to the arm.
    """
    if split is None:
        return whole()
    threshold = round(split.share * 2**_POINT_BITS)
    if _point(task, split.salt, unit_id) < threshold:
        return Assignment(CHALLENGER_ARM, threshold / 2**_POINT_BITS)
    return Assignment(CHAMPION_ARM, 1.0 - threshold / 2**_POINT_BITS)


def _point(task: str, salt: str, unit_id: str) -> int:
    """The unit's place among 2^53 points; each part is preceded by its length, so that no two triples give the same bytes."""
    parts = [part.encode() for part in ("traffic", task, salt, unit_id)]
    text = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> (64 - _POINT_BITS)
