"""Golden vectors of PlanOut's hashing: the inputs by rule, and, run with PlanOut 0.6.0 and six installed, what PlanOut makes of them.

    python tests/bandits/planout/vectors.py > tests/bandits/planout/vectors.txt

A line for each input: RandomFloat(0, 1) as it prints, WeightedChoice of ARMS by WEIGHTS, and RandomInteger(0, 9999).
"""

import collections
import collections.abc
from collections.abc import Iterator
from typing import Any

COUNT = 10_000
ARMS, WEIGHTS = ("a", "b", "c"), (0.2, 0.3, 0.5)
SEGMENTS = 10_000


def inputs() -> Iterator[tuple[str, str]]:
    """(experiment, unit) of each vector: numbers, words, dots and mail addresses as units, a hundred experiments."""
    for number in range(COUNT):
        unit = (str(number), f"member-{number}", f"{number}.{number % 7}", f"ann.{number}@example.com")[number % 4]
        yield f"experiment-{number % 100}", unit


def lines() -> Iterator[str]:
    """What PlanOut answers, in the order of the inputs."""
    # PlanOut 0.6.0 was written for Pythons that had this name here.
    collections.MutableMapping = collections.abc.MutableMapping
    from planout.assignment import Assignment
    from planout.ops.random import RandomFloat, RandomInteger, WeightedChoice

    for experiment, unit in inputs():
        asked: Any = Assignment(experiment)
        asked.point = RandomFloat(min=0.0, max=1.0, unit=unit)
        asked.arm = WeightedChoice(choices=list(ARMS), weights=list(WEIGHTS), unit=unit)
        asked.segment = RandomInteger(min=0, max=SEGMENTS - 1, unit=unit)
        yield f"{asked.point!r} {asked.arm} {asked.segment}"


if __name__ == "__main__":
    print("\n".join(lines()))
