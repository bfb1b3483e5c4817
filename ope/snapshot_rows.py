"""The closed decisions of an observations table, weighted for one snapshot: what `ope evaluate` reads of a running task."""

from pathlib import Path

from bandits.loaded import LoadedPolicy, load_policy
from bandits.store import Store
from ope import observed, scoring
from ope.errors import GateError, SourceError
from ope.rows import Batch
from protos.observation_reader import latest_revisions, observed_watermark_us
from protos.task import TaskFile, load_task

__all__ = ["closed_until_us", "snapshot_batch", "snapshot_policy"]


def snapshot_batch(
    store: Store, task: TaskFile, *, observations: Path | str, digest: str | None, metric: str
) -> tuple[Batch, tuple[str, ...]]:
    """The closed decisions that a snapshot did not learn from, weighted for it; and notes on them.

    `digest`: its digest or its folder, None = the champion.

    Raises GateError without a champion; SnapshotError, UnknownSnapshot, ObservationsError, SourceError, FeatureError, RowsError.
    """
    champion = store.champion()
    if digest is None and champion is None:
        raise GateError(f"--snapshot: not given, and task {task.name!r} has no champion; name a digest")
    policy = _at(digest) or store.load(digest or (champion.digest if champion else ""))
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
    return Batch(seen.reward, weight, unit=seen.unit, seen=seen.seen), tuple(notes)


def snapshot_policy(snapshot: str, *, store: Path | None, task_config: Path | None) -> LoadedPolicy:
    """The policy of a snapshot by its folder, or by its digest in a task's store. Raises SourceError, SnapshotError, UnknownSnapshot."""
    if (policy := _at(snapshot)) is not None:
        return policy
    if store is None or task_config is None:
        raise SourceError(
            f"--snapshot {snapshot}: is no folder; give the folder of a snapshot, or its digest beside --store and --task-config"
        )
    return Store(store, load_task(task_config).name).load(snapshot)


def _at(snapshot: str | None) -> LoadedPolicy | None:
    return load_policy(Path(snapshot).resolve()) if snapshot is not None and Path(snapshot).is_dir() else None


def closed_until_us(table: Path | str, task: TaskFile) -> int:
    """Decisions up to this time have all their windows closed at the table's watermark, microseconds since the epoch."""
    return (observed_watermark_us(table) or 0) - observed.longest_window_us(task)
