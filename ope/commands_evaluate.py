"""`ope evaluate`: what a policy would have earned on logged data."""

import dataclasses
import enum
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from bandits.store import Store
from ope import dsjson_log, open_bandit, parquet_log
from ope.errors import SourceError
from ope.estimate import Estimate
from ope.evaluate import evaluate as estimates_of
from ope.evaluate import on_policy_mean
from ope.interval_names import INTERVALS, interval_of
from ope.intervals import Interval
from ope.rows import Batch
from ope.snapshot_rows import snapshot_batch
from protos.task import load_task

__all__ = ["Format", "evaluate"]


class Format(enum.StrEnum):
    """What kind of log is read."""

    PARQUET = "parquet"
    OBSERVATIONS = "observations"
    OPEN_BANDIT = "open-bandit"
    CSV = "csv"
    DELTA = "delta"
    DSJSON = "dsjson"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is reported: estimates by name, the mean of the policy's own log where there is one, and what to know about the source."""

    estimates: Mapping[str, Estimate]
    on_policy: Mapping[str, Estimate]
    notes: tuple[str, ...]


def evaluate(
    log: Annotated[Path, typer.Option("--log", help="The log: a file, a folder of files, a Delta table, or an Open Bandit folder.")],
    format: Annotated[Format, typer.Option("--format", help="What kind of log it is.")] = Format.PARQUET,
    reward: Annotated[str, typer.Option(help="Columns: the reward (lists: a slate, one entry a slot).")] = "reward",
    weight: Annotated[str | None, typer.Option(help="Columns: the importance weight (of slates: the prefix weights).")] = None,
    propensity: Annotated[str | None, typer.Option(help="Columns: the logged propensity, in (0, 1].")] = None,
    target_propensity: Annotated[str | None, typer.Option(help="Columns: the target policy's propensity of the logged action.")] = None,
    q_logged: Annotated[str | None, typer.Option(help="Columns: the reward model at the logged action.")] = None,
    v_target: Annotated[str | None, typer.Option(help="Columns: the reward model's mean under the target policy.")] = None,
    unit: Annotated[str | None, typer.Option(help="Columns, dsjson: the randomised unit; errors are clustered by it.")] = None,
    target: Annotated[
        str,
        typer.Option(
            help="Open Bandit: `uniform`, a log's folder, or a CSV of item_id, position, probability. dsjson: `uniform`, `baseline`, a CSV."
        ),
    ] = "uniform",
    store: Annotated[Path | None, typer.Option(help="Observations: root of the policy store.")] = None,
    task_config: Annotated[Path | None, typer.Option(help="Observations: the task's YAML file.")] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="Observations: digest of the snapshot to evaluate; the champion where not given.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Observations: `reward`, or the name of an outcome.")] = "reward",
    estimator: Annotated[list[str] | None, typer.Option(help="Estimator to use; repeatable. Without it, all that the log allows.")] = None,
    interval: Annotated[str, typer.Option(help=f"Kind of interval: {', '.join(INTERVALS)}.")] = "student-t",
    level: Annotated[float, typer.Option(help="Probability that an interval misses, in (0, 0.5).")] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Estimates what a policy would have earned on logged decisions, with standard errors, intervals and reasons for doubt."""
    names, kind = tuple(estimator or ()), interval_of(interval)
    if format is Format.OPEN_BANDIT:
        answer = _open_bandit(log, target, names, level, kind)
    elif format is Format.OBSERVATIONS:
        answer = _observations(log, store, task_config, snapshot, metric, names, level, kind)
    elif format is Format.DSJSON:
        batches = dsjson_log.read_batches(log, target=target, unit=unit)
        answer = Answer(estimates_of(batches, names=names, level=level, interval=kind), {}, ())
    else:
        mapping = parquet_log.ColumnMapping(reward, weight, propensity, target_propensity, q_logged, v_target, unit)
        rows = parquet_log.count_rows(log, kind=format)
        counted = _counted(parquet_log.read_batches(log, mapping, kind=format), rows=rows)
        answer = Answer(estimates_of(counted, names=names, level=level, interval=kind), {}, ())
    _show(answer, as_json=as_json)


def _open_bandit(log: Path, target: str, names: tuple[str, ...], level: float, interval: Interval) -> Answer:
    rows = open_bandit.read_log(log)
    policy = open_bandit.target_probabilities(target, rows)
    counted = _counted(open_bandit.batches(rows, policy), rows=len(rows))
    estimates = estimates_of(counted, names=names, level=level, interval=interval)
    notes = (
        (f"pairs of item and position that the target's log never shows, counted as never taken: {policy.unseen}",) if policy.unseen else ()
    )
    return Answer(estimates, _own_mean(target, level), notes)


def _own_mean(target: str, level: float) -> dict[str, Estimate]:
    """Mean reward in the target's own log, where the target is a log."""
    if not Path(target).is_dir():
        return {}
    own = open_bandit.read_log(Path(target))
    return {"on-policy, target's log": on_policy_mean([Batch(own["reward"].to_numpy()[:, None])], level=level)}


def _observations(
    log: Path,
    store: Path | None,
    task_config: Path | None,
    snapshot: str | None,
    metric: str,
    names: tuple[str, ...],
    level: float,
    interval: Interval,
) -> Answer:
    for flag, value in (("--store", store), ("--task-config", task_config)):
        if value is None:
            raise SourceError(
                f"{flag}: not given; an observations table is evaluated with --store, --task-config and, if you like, --snapshot"
            )
    assert store is not None and task_config is not None
    task = load_task(task_config)
    batch, notes = snapshot_batch(Store(store, task.name), task, observations=log, digest=snapshot, metric=metric)
    on_policy = {"on-policy, this log": on_policy_mean([batch], level=level)}
    return Answer(estimates_of([batch], names=names or ("rips", "sips"), level=level, interval=interval), on_policy, notes)


def _counted(batches: Iterator[Batch], *, rows: int) -> Iterator[Batch]:
    """The batches, with a bar on stderr that counts their rows."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("rows", total=rows)
        for batch in batches:
            yield batch
            progress.advance(bar, len(batch.reward))


def _show(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_plain(answer), indent=2, allow_nan=False))
        return
    console = Console()
    console.print(_table({**answer.estimates, **answer.on_policy}))
    for name, estimate in answer.estimates.items():
        for reason in estimate.reasons:
            console.print(f"{name}: {escape(reason)}", highlight=False)
    for note in answer.notes:
        console.print(escape(note), highlight=False)


def _table(estimates: Mapping[str, Estimate]) -> Table:
    level = next(iter(estimates.values())).level
    table = Table("estimator", "value", "standard error", f"{1 - level:.0%} interval", "effective rows", "largest weight", "rows")
    for name, estimate in estimates.items():
        interval = f"{_digits(estimate.lower)} to {_digits(estimate.upper)}"
        weights = (_digits(estimate.effective_sample_size, ".0f"), _digits(estimate.largest_weight, ".4g"))
        table.add_row(name, _digits(estimate.value), _digits(estimate.standard_error), interval, *weights, str(estimate.n))
    return table


def _digits(value: float, form: str = ".6f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def _plain(answer: Answer) -> dict[str, Any]:
    def estimate(value: Estimate) -> dict[str, Any]:
        numbers = dataclasses.asdict(value).items()
        return {name: None if isinstance(number, float) and math.isnan(number) else number for name, number in numbers}

    by_name = {part: {name: estimate(value) for name, value in getattr(answer, part).items()} for part in ("estimates", "on_policy")}
    return {**by_name, "notes": list(answer.notes)}
