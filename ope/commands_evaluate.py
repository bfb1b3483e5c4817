"""`ope evaluate`: what a policy would have earned on logged data."""

import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from bandits.store import Store
from ope import dsjson_log, open_bandit, parquet_log, plots
from ope.answers import Answer, print_answer
from ope.errors import SourceError
from ope.estimate import Estimate
from ope.evaluate import evaluate as estimates_of
from ope.evaluate import on_policy_mean
from ope.impressions import DECISION, IMPRESSION
from ope.interval_names import BOUNDED, INTERVALS, interval_of
from ope.intervals import Interval
from ope.progress import counted
from ope.rows import Batch
from ope.snapshot_columns import SnapshotColumns, read_under
from ope.snapshot_rows import snapshot_batch, snapshot_policy
from protos.task import load_task

__all__ = ["INTERVAL_HELP", "SPAN_HELP", "Format", "Per", "evaluate", "seen_is_mapped"]

INTERVAL_HELP = f"Kind of interval: {', '.join((*INTERVALS, *BOUNDED))}."
SPAN_HELP = f"Two numbers, LOW HIGH, between which every contribution to a value lies; for {' and '.join(BOUNDED)}."


class Format(enum.StrEnum):
    """What kind of log is read."""

    PARQUET = "parquet"
    OBSERVATIONS = "observations"
    OPEN_BANDIT = "open-bandit"
    CSV = "csv"
    DELTA = "delta"
    DSJSON = "dsjson"


class Per(enum.StrEnum):
    """What a value is a mean over."""

    DECISION = DECISION
    IMPRESSION = IMPRESSION


class _Asked(NamedTuple):
    """How to estimate."""

    names: tuple[str, ...]
    level: float
    interval: Interval
    denominator: str

    def of(self, batches: Iterable[Batch], *, rows: int | None) -> dict[str, Estimate]:
        """Estimates of the batches, with a bar that counts their rows."""
        rows_of = counted(batches, rows=rows)
        return estimates_of(rows_of, names=self.names, level=self.level, interval=self.interval, denominator=self.denominator)


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
    marginal_weight: Annotated[str | None, typer.Option(help="Columns: of slates, the weight of each item in its slot.")] = None,
    slate_weight: Annotated[str | None, typer.Option(help="Columns: of slates, one pseudo-inverse weight a slate.")] = None,
    seen: Annotated[str | None, typer.Option(help="Columns: 1 where it was seen, 0 where not; for --per impression.")] = None,
    target: Annotated[
        str,
        typer.Option(
            help="Open Bandit: `uniform`, a log's folder, or a CSV of item_id, position, probability. dsjson: `uniform`, `baseline`, a CSV."
        ),
    ] = "uniform",
    store: Annotated[Path | None, typer.Option(help="Observations, --snapshot DIGEST: root of the policy store.")] = None,
    task_config: Annotated[Path | None, typer.Option(help="Observations, --snapshot DIGEST: the task's YAML file.")] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(
            help="Snapshot to evaluate, by digest or folder. Observations: the champion where not given. Columns: it makes the weights."
        ),
    ] = None,
    action: Annotated[str | None, typer.Option(help="--snapshot on columns: id of the action taken (lists: a slate).")] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(help="--snapshot on columns: a column of lists, or repeated: one of numbers each, in the schema's order."),
    ] = None,
    candidates: Annotated[str | None, typer.Option(help="--snapshot on columns: lists of ids; every action where not given.")] = None,
    eligible: Annotated[str | None, typer.Option(help="--snapshot on columns: lists, true = the candidate may be shown.")] = None,
    candidate_features: Annotated[str | None, typer.Option(help="--snapshot on columns: lists, the candidates' features in a row.")] = None,
    candidate_scores: Annotated[str | None, typer.Option(help="--snapshot on columns: lists, an external score a candidate.")] = None,
    decision_id: Annotated[str | None, typer.Option(help="--snapshot on columns: names the decision, for policies keyed by it.")] = None,
    metric: Annotated[str, typer.Option(help="Observations: `reward`, or the name of an outcome.")] = "reward",
    estimator: Annotated[list[str] | None, typer.Option(help="Estimator to use; repeatable. Without it, all that the log allows.")] = None,
    per: Annotated[
        Per, typer.Option(help="What a value is a mean over: decisions as logged, or impressions, what was seen.")
    ] = Per.DECISION,
    interval: Annotated[str, typer.Option(help=INTERVAL_HELP)] = "student-t",
    span: Annotated[tuple[float, float] | None, typer.Option(help=SPAN_HELP)] = None,
    level: Annotated[float, typer.Option(help="Probability that an interval misses, in (0, 0.5).")] = 0.05,
    plot: Annotated[Path | None, typer.Option(help="Picture of the estimates to write: a .png or .svg file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Estimates what a policy would have earned on logged decisions, with standard errors, intervals and reasons for doubt."""
    if plot is not None:
        plots.check_path(plot)
    asked = _Asked(tuple(estimator or ()), level, interval_of(interval, span=span), per)
    if format is Format.OPEN_BANDIT:
        answer = _open_bandit(log, target, asked)
    elif format is Format.OBSERVATIONS:
        answer = _observations(log, store, task_config, snapshot, metric, asked)
    elif format is Format.DSJSON:
        _refuse_impressions(per)
        answer = Answer(asked.of(dsjson_log.read_batches(log, target=target, unit=unit), rows=None))
    else:
        seen_is_mapped(seen, per)
        mapping = parquet_log.ColumnMapping(
            reward, weight, propensity, target_propensity, q_logged, v_target, unit, marginal_weight, slate_weight, seen
        )
        if snapshot is None:
            batches = parquet_log.read_batches(log, mapping, kind=format)
        else:
            columns = SnapshotColumns(
                *_with_snapshot(mapping, action),
                context=tuple(context or ()),
                candidates=candidates,
                eligible=eligible,
                candidate_features=candidate_features,
                candidate_scores=candidate_scores,
                decision_id=decision_id,
                unit=unit,
                seen=seen,
            )
            batches = read_under(log, columns, policy=snapshot_policy(snapshot, store=store, task_config=task_config), kind=format)
        answer = Answer(asked.of(batches, rows=parquet_log.count_rows(log, kind=format)))
    print_answer(answer, as_json=as_json)
    if plot is not None:
        plots.plot_estimates(plot, estimates=answer.estimates, on_policy=answer.on_policy)


def seen_is_mapped(seen: str | None, per: Per) -> None:
    """Raises SourceError where a mean per impression is asked of columns that do not say what was seen."""
    if per is Per.IMPRESSION and seen is None:
        raise SourceError("--seen: not given; --per impression counts what was seen: map a column of 1 (seen) and 0, lists for slates")


def _refuse_impressions(per: Per) -> None:
    if per is Per.IMPRESSION:
        raise SourceError("--per impression: dsjson logs do not say what was seen; leave it out for means per decision")


def _with_snapshot(mapping: parquet_log.ColumnMapping, action: str | None) -> tuple[str, str, str]:
    """Columns of action, reward and propensity. Raises SourceError for one that is missing, or that the snapshot makes itself."""
    for flag, column in mapping.named().items():
        if flag in ("weight", "target_propensity", "q_logged", "v_target", "marginal_weight", "slate_weight"):
            raise SourceError(f"--{flag.replace('_', '-')} {column}: given beside --snapshot, which makes the weights; give either")
    if action is None or mapping.propensity is None:
        missing = "--action" if action is None else "--propensity"
        raise SourceError(
            f"{missing}: not given; --snapshot on columns needs --action, --propensity and --reward, and --context where it has one"
        )
    return action, mapping.reward, mapping.propensity


def _open_bandit(log: Path, target: str, asked: _Asked) -> Answer:
    rows = open_bandit.read_log(log)
    policy = open_bandit.target_probabilities(target, rows)
    estimates = asked.of(open_bandit.batches(rows, policy), rows=len(rows))
    notes = (
        (f"pairs of item and position that the target's log never shows, counted as never taken: {policy.unseen}",) if policy.unseen else ()
    )
    return Answer(estimates, _own_mean(target, asked.level), notes)


def _own_mean(target: str, level: float) -> dict[str, Estimate]:
    """Mean reward in the target's own log, where the target is a log; every row of it is an impression and a decision."""
    if not Path(target).is_dir():
        return {}
    own = open_bandit.read_log(Path(target))
    return {"on-policy, target's log": on_policy_mean([Batch(own["reward"].to_numpy()[:, None])], level=level)}


def _observations(log: Path, store: Path | None, task_config: Path | None, snapshot: str | None, metric: str, asked: _Asked) -> Answer:
    for flag, value in (("--store", store), ("--task-config", task_config)):
        if value is None:
            raise SourceError(
                f"{flag}: not given; an observations table is evaluated with --store, --task-config and, if you like, --snapshot"
            )
    assert store is not None and task_config is not None
    task = load_task(task_config)
    batch, notes = snapshot_batch(Store(store, task.name), task, observations=log, digest=snapshot, metric=metric)
    on_policy = {"on-policy, this log": on_policy_mean([batch], level=asked.level, denominator=asked.denominator)}
    asked = asked._replace(names=asked.names or ("rips", "sips"))
    return Answer(asked.of([batch], rows=len(batch.reward)), on_policy, notes)
