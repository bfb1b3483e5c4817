"""`ope compare`: two policies on the same logged decisions."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ope import dsjson_log, open_bandit, parquet_log
from ope.commands_evaluate import Format
from ope.errors import SourceError
from ope.estimate import Estimate
from ope.evaluate import compare as comparisons_of
from ope.interval_names import INTERVALS, interval_of
from ope.paired import Comparison
from ope.parquet_log import ColumnMapping
from ope.rows import Batch, as_logged

__all__ = ["compare"]


def compare(
    log: Annotated[Path, typer.Option("--log", help="The log: a file, a folder of files, a Delta table, or an Open Bandit folder.")],
    format: Annotated[Format, typer.Option("--format", help="What kind of log it is; observations are compared by `ope gate`.")] = (
        Format.PARQUET
    ),
    reward: Annotated[str, typer.Option(help="Columns: the reward (lists: a slate, one entry a slot).")] = "reward",
    weight: Annotated[str | None, typer.Option(help="Columns: the challenger's importance weight.")] = None,
    propensity: Annotated[str | None, typer.Option(help="Columns: the logged propensity, in (0, 1].")] = None,
    target_propensity: Annotated[str | None, typer.Option(help="Columns: the challenger's propensity of the logged action.")] = None,
    q_logged: Annotated[str | None, typer.Option(help="Columns: the reward model at the logged action.")] = None,
    v_target: Annotated[str | None, typer.Option(help="Columns: the reward model's mean under the challenger.")] = None,
    champion_weight: Annotated[str | None, typer.Option(help="Columns: the champion's weight; without any, the logging policy.")] = None,
    champion_propensity: Annotated[str | None, typer.Option(help="Columns: the champion's propensity of the logged action.")] = None,
    champion_v_target: Annotated[str | None, typer.Option(help="Columns: the reward model's mean under the champion.")] = None,
    unit: Annotated[str | None, typer.Option(help="Columns, dsjson: the randomised unit; errors are clustered by it.")] = None,
    target: Annotated[str, typer.Option(help="Open Bandit, dsjson: the challenger, as in `ope evaluate`.")] = "uniform",
    against: Annotated[str | None, typer.Option(help="Open Bandit, dsjson: the champion; without it, the logging policy.")] = None,
    estimator: Annotated[list[str] | None, typer.Option(help="Estimator to use; repeatable. Without it, all that the log allows.")] = None,
    interval: Annotated[str, typer.Option(help=f"Kind of interval: {', '.join(INTERVALS)}.")] = "student-t",
    level: Annotated[float, typer.Option(help="Probability that an interval misses, in (0, 0.5).")] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compares two policies on the same logged decisions: the value of each, and the difference with the error of the difference."""
    if format is Format.OBSERVATIONS:
        raise SourceError("--format observations: snapshots are compared by `ope gate`, which has the vetoes; give another kind of log")
    other: Iterator[Batch] | None
    if format is Format.OPEN_BANDIT:
        challenger, other = _open_bandit(log, target), None if against is None else _open_bandit(log, against)
    elif format is Format.DSJSON:
        challenger = dsjson_log.read_batches(log, target=target, unit=unit)
        other = None if against is None else dsjson_log.read_batches(log, target=against, unit=unit)
    else:
        mapping = ColumnMapping(reward, weight, propensity, target_propensity, q_logged, v_target, unit)
        champion = _champion(mapping, champion_weight, champion_propensity, champion_v_target)
        challenger = parquet_log.read_batches(log, mapping, kind=format)
        other = None if champion is None else parquet_log.read_batches(log, champion, kind=format)
    pairs = ((batch, as_logged(batch)) for batch in challenger) if other is None else zip(challenger, other, strict=True)
    _show(comparisons_of(pairs, names=tuple(estimator or ()), level=level, interval=interval_of(interval)), as_json=as_json)


def _open_bandit(log: Path, target: str) -> Iterator[Batch]:
    rows = open_bandit.read_log(log)
    return open_bandit.batches(rows, open_bandit.target_probabilities(target, rows))


def _champion(mapping: ColumnMapping, weight: str | None, propensity: str | None, value: str | None) -> ColumnMapping | None:
    """The champion's columns beside the challenger's; None where it has none, and is the logging policy."""
    if weight is None and propensity is None and value is None:
        return None
    logged = None if propensity is None else mapping.propensity
    return dataclasses.replace(mapping, weight=weight, propensity=logged, target_propensity=propensity, v_target=value)


def _show(found: dict[str, Comparison], *, as_json: bool) -> None:
    if as_json:
        plain = {name: {part: _plain(getattr(one, part)) for part in one._fields} for name, one in found.items()}
        print(json.dumps({"comparisons": plain}, indent=2, allow_nan=False))
        return
    console, level = Console(), next(iter(found.values())).difference.level
    table = Table("estimator", "challenger", "champion", "difference", "standard error", f"{1 - level:.0%} interval", "effective rows")
    for name, one in found.items():
        ends = f"{_digits(one.difference.lower)} to {_digits(one.difference.upper)}"
        values = (_digits(estimate.value) for estimate in one)
        table.add_row(name, *values, _digits(one.difference.standard_error), ends, _digits(one.difference.effective_sample_size, ".0f"))
    console.print(table)
    for name, one in found.items():
        for reason in one.difference.reasons:
            console.print(f"{name}: {escape(reason)}", highlight=False)


def _plain(estimate: Estimate) -> dict[str, Any]:
    numbers = dataclasses.asdict(estimate).items()
    return {name: None if isinstance(number, float) and math.isnan(number) else number for name, number in numbers}


def _digits(value: float, form: str = ".6f") -> str:
    return "-" if math.isnan(value) else format(value, form)
