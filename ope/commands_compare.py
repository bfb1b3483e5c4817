"""`ope compare`: two policies on the same logged decisions."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from ope import dsjson_log, open_bandit, parquet_log, plots
from ope.answers import print_comparisons
from ope.commands_evaluate import INTERVAL_HELP, SPAN_HELP, Format, Per, seen_is_mapped
from ope.errors import SourceError
from ope.evaluate import compare as comparisons_of
from ope.interval_names import interval_of
from ope.parquet_log import ColumnMapping
from ope.progress import counted
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
    marginal_weight: Annotated[
        str | None, typer.Option(help="Columns: of slates, the challenger's weight of each item in its slot.")
    ] = None,
    slate_weight: Annotated[str | None, typer.Option(help="Columns: of slates, the challenger's pseudo-inverse weight.")] = None,
    champion_weight: Annotated[str | None, typer.Option(help="Columns: the champion's weight; without any, the logging policy.")] = None,
    champion_propensity: Annotated[str | None, typer.Option(help="Columns: the champion's propensity of the logged action.")] = None,
    champion_v_target: Annotated[str | None, typer.Option(help="Columns: the reward model's mean under the champion.")] = None,
    champion_marginal_weight: Annotated[str | None, typer.Option(help="Columns: of slates, the champion's of each item.")] = None,
    champion_slate_weight: Annotated[str | None, typer.Option(help="Columns: of slates, the champion's pseudo-inverse weight.")] = None,
    unit: Annotated[str | None, typer.Option(help="Columns, dsjson: the randomised unit; errors are clustered by it.")] = None,
    seen: Annotated[str | None, typer.Option(help="Columns: 1 where it was seen, 0 where not; for --per impression.")] = None,
    target: Annotated[str, typer.Option(help="Open Bandit, dsjson: the challenger, as in `ope evaluate`.")] = "uniform",
    against: Annotated[str | None, typer.Option(help="Open Bandit, dsjson: the champion; without it, the logging policy.")] = None,
    estimator: Annotated[list[str] | None, typer.Option(help="Estimator to use; repeatable. Without it, all that the log allows.")] = None,
    per: Annotated[
        Per, typer.Option(help="What a value is a mean over: decisions as logged, or impressions, what was seen.")
    ] = Per.DECISION,
    interval: Annotated[str, typer.Option(help=INTERVAL_HELP)] = "student-t",
    span: Annotated[tuple[float, float] | None, typer.Option(help=SPAN_HELP)] = None,
    level: Annotated[float, typer.Option(help="Probability that an interval misses, in (0, 0.5).")] = 0.05,
    plot: Annotated[Path | None, typer.Option(help="Picture of values and differences to write: a .png or .svg file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compares two policies on the same logged decisions: the value of each, and the difference with the error of the difference."""
    if format is Format.OBSERVATIONS:
        raise SourceError("--format observations: snapshots are compared by `ope gate`, which has the vetoes; give another kind of log")
    if plot is not None:
        plots.check_path(plot)
    kind = interval_of(interval, span=span)
    other: Iterator[Batch] | None
    rows: int | None = None
    if format is Format.OPEN_BANDIT:
        frame = open_bandit.read_log(log)
        challenger, other = (None if policy is None else _open_bandit(frame, policy) for policy in (target, against))
        rows = len(frame)
    elif format is Format.DSJSON:
        challenger = dsjson_log.read_batches(log, target=target, unit=unit)
        other = None if against is None else dsjson_log.read_batches(log, target=against, unit=unit)
    else:
        seen_is_mapped(seen, per)
        mapping = ColumnMapping(
            reward, weight, propensity, target_propensity, q_logged, v_target, unit, marginal_weight, slate_weight, seen
        )
        theirs = (champion_weight, champion_propensity, champion_v_target, champion_marginal_weight, champion_slate_weight)
        champion = _champion(mapping, *theirs)
        challenger = parquet_log.read_batches(log, mapping, kind=format)
        other = None if champion is None else parquet_log.read_batches(log, champion, kind=format)
        rows = parquet_log.count_rows(log, kind=format)
    assert challenger is not None
    pairs = ((batch, as_logged(batch)) for batch in challenger) if other is None else zip(challenger, other, strict=True)
    found = comparisons_of(counted(pairs, rows=rows), names=tuple(estimator or ()), level=level, interval=kind, denominator=per)
    print_comparisons(found, as_json=as_json)
    if plot is not None:
        plots.plot_comparisons(plot, found=found)


def _open_bandit(rows: pl.DataFrame, target: str) -> Iterator[Batch]:
    return open_bandit.batches(rows, open_bandit.target_probabilities(target, rows))


def _champion(
    mapping: ColumnMapping, weight: str | None, propensity: str | None, value: str | None, marginal: str | None, slate: str | None
) -> ColumnMapping | None:
    """The champion's columns beside the challenger's; None where it has none, and is the logging policy."""
    if (weight, propensity, value, marginal, slate) == (None,) * 5:
        return None
    return dataclasses.replace(
        mapping,
        weight=weight,
        propensity=None if propensity is None else mapping.propensity,
        target_propensity=propensity,
        v_target=value,
        marginal_weight=marginal,
        slate_weight=slate,
    )
