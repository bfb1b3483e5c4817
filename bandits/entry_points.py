"""What other distributions bring: objects under an entry point group, with the name and version of who brings them. Touches the
environment: it reads the metadata of what is installed, and imports what is asked for.

    [project.entry-points."slateloop.policies"]
    nearest_neighbour = "acme_bandits:ENTRY"
"""

import importlib.metadata
from typing import Any, NamedTuple

from bandits.errors import PolicyError

__all__ = ["ESTIMATORS", "POLICIES", "Brought", "brought", "brought_names"]

#: Groups of entry points: policies are `bandits.catalog.Entry`, estimators those of `ope`.
POLICIES, ESTIMATORS = "slateloop.policies", "slateloop.estimators"


class Brought(NamedTuple):
    """An object, and the distribution that brings it as `name==version`."""

    value: Any
    distribution: str


def brought_names(group: str) -> dict[str, str]:
    """Name -> distribution, as `name==version`, of everything under a group. Imports nothing of it."""
    return {point.name: _distribution(point) for point in importlib.metadata.entry_points(group=group)}


def brought(group: str, name: str) -> Brought | None:
    """What stands under a name of a group; None where nothing does.

    Raises PolicyError where two distributions bring the name, or where it cannot be imported.
    """
    points = list(importlib.metadata.entry_points(group=group, name=name))
    if not points:
        return None
    if len({_distribution(point) for point in points}) > 1:
        raise PolicyError(f"{group}: {name!r} is brought by {sorted(map(_distribution, points))}; uninstall all but one")
    try:
        return Brought(points[0].load(), _distribution(points[0]))
    except Exception as error:
        raise PolicyError(f"{group}: {name!r} of {_distribution(points[0])} cannot be imported ({error}); mend or remove it") from error


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name}=={point.dist.version}" if point.dist is not None else "unknown"
