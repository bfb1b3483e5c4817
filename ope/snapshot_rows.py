"""The closed decisions of an observations table, weighted for one snapshot: what `ope evaluate` reads of a running task."""

from pathlib import Path

from bandits.store import Store
from ope import observed, scoring
from ope.errors import GateError
from ope.rows import Batch
from protos.observation_reader import latest_revisions, observed_watermark_us
from protos.task import TaskFile

__all__ = ["closed_until_us", "snapshot_batch"]


def snapshot_batch(
    store: Store, task: TaskFile, *, observations: Path | str, digest: str | None, metric: str
) -> tuple[Batch, tuple[str, ...]]:
    """The closed decisions that a snapshot (the champion where `digest` is None) did not learn from, weighted for it; and notes on them.

    Raises GateError without a champion; SnapshotError, UnknownSnapshot, ObservationsError, SourceError, FeatureError, RowsError.
    """
    champion = store.champion()
    if digest is None and champion is None:
        raise GateError(f"--snapshot: not given, and task {task.name!r} has no champion; name a digest")
    policy = store.load(digest or (champion.digest if champion else ""))
    rows = latest_revisions(
        observations,
        task=task.name,
        decided_after_us=policy.manifest.training_watermark_us,
        decided_until_us=closed_until_us(observations, task),
        columns=list(dict.fromkeys([*observed.COLUMNS, *scoring.COLUMNS])),
    )
    rows, excluded = observed.usable(observed.settled(rows))
    scores = scoring.score(rows, [policy])
    seen = observed.observed(rows, metric=metric)
    (weight,), unsupported = scoring.weights(scores, seen)
    notes = [f"{count} rows left out: {reason}" for reason, count in excluded.items() if count]
    if unsupported.any():
        notes.append(f"in {unsupported.mean():.1%} of the rows the snapshot would take an action that no logged slate holds")
    return Batch(seen.reward, weight, unit=seen.unit), tuple(notes)


def closed_until_us(table: Path | str, task: TaskFile) -> int:
    """Decisions up to this time have all their windows closed at the table's watermark, microseconds since the epoch."""
    return (observed_watermark_us(table) or 0) - observed.longest_window_us(task)
