"""What `ope evaluate` and `ope compare` print: tables for people, JSON for programs."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ope.estimate import Estimate
from ope.impressions import DECISION
from ope.paired import Comparison

__all__ = ["Answer", "print_answer", "print_comparisons"]

_MEANS = {
    DECISION: "Values are means per decision (intent to treat: as logged, seen or not).",
    "impression": "Values are means per impression: weighted rewards over weighted seen slots, a ratio; what was not seen is in neither.",
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is reported: estimates by name, the mean of the policy's own log where there is one, and what to know about the source."""

    estimates: Mapping[str, Estimate]
    on_policy: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def print_answer(answer: Answer, *, as_json: bool) -> None:
    """Prints estimates."""
    if as_json:
        by_name = {part: {name: _plain(value) for name, value in getattr(answer, part).items()} for part in ("estimates", "on_policy")}
        print(json.dumps({**by_name, "notes": list(answer.notes)}, indent=2, allow_nan=False))
        return
    level = next(iter(answer.estimates.values())).level
    table = Table("estimator", "value", "standard error", f"{1 - level:.0%} interval", "effective rows", "largest weight", "rows")
    for name, estimate in {**answer.estimates, **answer.on_policy}.items():
        weights = (_digits(estimate.effective_sample_size, ".0f"), _digits(estimate.largest_weight, ".4g"))
        table.add_row(name, _digits(estimate.value), _digits(estimate.standard_error), _ends(estimate), *weights, str(estimate.n))
    _print(table, answer.estimates, answer.notes)


def print_comparisons(found: Mapping[str, Comparison], *, as_json: bool) -> None:
    """Prints comparisons."""
    if as_json:
        plain = {name: {part: _plain(getattr(one, part)) for part in one._fields} for name, one in found.items()}
        print(json.dumps({"comparisons": plain}, indent=2, allow_nan=False))
        return
    level = next(iter(found.values())).difference.level
    table = Table("estimator", "challenger", "champion", "difference", "standard error", f"{1 - level:.0%} interval", "effective rows")
    for name, one in found.items():
        rest = (_digits(one.difference.standard_error), _ends(one.difference), _digits(one.difference.effective_sample_size, ".0f"))
        table.add_row(name, *(_digits(estimate.value) for estimate in one), *rest)
    _print(table, {name: one.difference for name, one in found.items()}, ())


def _print(table: Table, shown: Mapping[str, Estimate], notes: tuple[str, ...]) -> None:
    console = Console()
    console.print(table)
    for name, estimate in shown.items():
        for reason in estimate.reasons:
            console.print(f"{name}: {escape(reason)}", highlight=False)
    for note in (*notes, _MEANS[next(iter(shown.values())).denominator]):
        console.print(escape(note), highlight=False)


def _plain(estimate: Estimate) -> dict[str, Any]:
    numbers = dataclasses.asdict(estimate).items()
    return {name: None if isinstance(number, float) and math.isnan(number) else number for name, number in numbers}


def _ends(estimate: Estimate) -> str:
    return f"{_digits(estimate.lower)} to {_digits(estimate.upper)}"


def _digits(value: float, form: str = ".6f") -> str:
    return "-" if math.isnan(value) else format(value, form)
