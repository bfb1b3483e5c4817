"""Vowpal Wabbit's decision-service logs (dsjson): one JSON object a line, one decision each.

Read of a line: `_label_cost` (the reward is its negative), `_label_probability` (the logged propensity of the action taken), `a` (the
actions, the one taken first) or `_label_Action`, `p` (as many as there are actions), `EventId`, `pdrop`. A target policy is

    uniform       every action of the decision alike
    baseline      action 1, which these logs keep for what the product did before
    a CSV file    columns EventId, probability: the target's propensity of the action that was taken
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ope.errors import SourceError
from ope.rows import Batch, single_actions, unit_keys

__all__ = ["BASELINE", "UNIFORM", "read_batches"]

UNIFORM, BASELINE = "uniform", "baseline"
_LINES_AT_ONCE = 1 << 14


class _Row(NamedTuple):
    reward: float
    propensity: float
    target: float
    unit: str


def read_batches(path: Path, *, target: str, unit: str | None = None) -> Iterator[Batch]:
    """The decisions of a file, gzipped or not, in their order; `unit` is a key of the line, dotted where it is nested, say `c.user`.

    Raises SourceError for a line that is no decision, a propensity outside (0, 1], or rows of which some were dropped (`pdrop`).
    """
    chance, rows = _target(target), list[_Row]()
    for number, line in enumerate(_lines(path), 1):
        rows.append(_row(line, chance, unit, f"{path}, line {number}"))
        if len(rows) == _LINES_AT_ONCE:
            yield _batch(rows, keyed=unit is not None)
            rows = []
    if rows:
        yield _batch(rows, keyed=unit is not None)


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            yield from (line for line in file if line.startswith("{"))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as lines of JSON ({error}); give a dsjson file") from error


def _row(line: str, chance: Callable[[dict[str, Any]], float], unit: str | None, where: str) -> _Row:
    try:
        event = json.loads(line)
        propensity, reward = float(event["_label_probability"]), -float(event["_label_cost"])
        target = chance(event)
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{where}: is no decision of this format ({error!r}); leave out such lines") from error
    if not 0 < propensity <= 1:
        raise SourceError(f"{where}: _label_probability is {propensity}; it must lie in (0, 1]: leave out such lines")
    if event.get("pdrop", 0.0):
        raise SourceError(f"{where}: pdrop is {event['pdrop']}; rows were dropped by their reward, so a mean over the rest is biased")
    return _Row(reward, propensity, target, "" if unit is None else _nested(event, unit, where))


def _nested(event: dict[str, Any], name: str, where: str) -> str:
    found: Any = event
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if found is None:
        raise SourceError(f"{where}: has no {name!r}; name a key that every line has, or map no unit")
    return str(found)


def _target(target: str) -> Callable[[dict[str, Any]], float]:
    if target == UNIFORM:
        return lambda event: 1.0 / len(event["p"])
    if target == BASELINE:
        return lambda event: float(int(event["_label_Action"] if "_label_Action" in event else event["a"][0]) == 1)
    try:
        with Path(target).open(newline="") as file:
            by_event = {row["EventId"]: float(row["probability"]) for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError) as error:
        raise SourceError(f"{target}: cannot be read ({error!r}); give uniform, baseline, or a CSV of EventId, probability") from error
    return lambda event: by_event[event["EventId"]]


def _batch(rows: list[_Row], *, keyed: bool) -> Batch:
    weight = [row.target / row.propensity for row in rows]
    unit = unit_keys([row.unit for row in rows]) if keyed else None
    return single_actions(reward=[row.reward for row in rows], weight=weight, unit=unit)
