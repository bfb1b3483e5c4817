"""Reads the store and the observations table, and gathers the evidence on a challenger. Scores each row once."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from bandits.loaded import LoadedPolicy
from bandits.store import Challenger, Pointer, Store
from ope import observed, scoring
from ope.errors import GateError
from ope.evidence import Contest, Evidence, JudgedRows, evidence_of
from ope.gate_config import GateConfig
from ope.rows import Batch
from protos.observation_reader import Cursor, latest_revisions, observed_watermark_us, revisions_since
from protos.task import TaskFile

__all__ = ["Judge", "contest_of", "snapshot_batch"]


def contest_of(store: Store, task: TaskFile, *, challenger: Challenger, champion: Pointer) -> Contest:
    """The contest of a challenger against the champion. Raises SnapshotError, UnknownSnapshot from the store."""
    manifest, incumbent = store.manifest(challenger.digest), store.manifest(champion.digest)
    return Contest(
        task=task.name,
        challenger=challenger.digest,
        champion=champion.digest,
        kind=challenger.kind,
        label=manifest.label,
        generation=champion.generation,
        training_watermark_us=max(manifest.training_watermark_us, incumbent.training_watermark_us),
        config_digest=task.digest,
    )


class Judge:
    """Gathers evidence on one contest, look after look; rows that were scored at an earlier look are not scored again."""

    def __init__(
        self,
        contest: Contest,
        *,
        task: TaskFile,
        config: GateConfig,
        observations: Path | str,
        challenger: LoadedPolicy,
        champion: LoadedPolicy,
    ) -> None:
        self.contest = contest
        self._task, self._config, self._table = task, config, observations
        self._policies = (challenger, champion)
        # The challenger's learner had seen the commits up to here, so no later decision stands in them.
        self._cursor: Cursor = challenger.manifest.cursor
        # Latest revisions of the decisions after the training watermark, and their scores.
        self._latest: pa.Table | None = None
        self._scores = scoring.no_scores(len(self._policies))

    def gather(self, *, complete: bool, now_us: int) -> Evidence:
        """The evidence in all rows that are closed by now. Raises ObservationsError, SourceError, FeatureError, RowsError."""
        self._follow()
        usable, excluded = observed.usable(observed.settled(self._closed()))
        rows = observed.observed(usable, metric=self._config.metric)
        (challenger, champion), unsupported = scoring.weights(self._scores, rows)
        judged = JudgedRows(rows.decision_time_us, rows.unit, rows.reward, challenger, champion, unsupported, excluded)
        names = (self._config.estimator, self._config.cross_check)
        return evidence_of(self.contest, judged, estimators=names, complete=complete, now_us=now_us)

    def _follow(self) -> None:
        """Reads the revisions committed since the last look; scores decisions that are new."""
        revisions, self._cursor = revisions_since(self._table, task=self._task.name, cursor=self._cursor)
        revisions = revisions.filter(pc.field("decision_time_us") > self.contest.training_watermark_us)
        if revisions.num_rows == 0 and self._latest is not None:
            return
        slim = revisions.select(observed.COLUMNS)
        self._latest = observed.latest(slim if self._latest is None else pa.concat_tables([self._latest, slim]))
        once = observed.latest(revisions)
        new = once.filter(pa.array(scoring.missing(self._scores, once["decision_id"].to_pylist()), pa.bool_()))
        if new.num_rows:
            self._scores = scoring.add_scores(self._scores, scoring.score(new, self._policies))

    def _closed(self) -> pa.Table:
        assert self._latest is not None
        return self._latest.filter(pc.field("decision_time_us") <= _closed_until_us(self._table, self._task))


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
        decided_until_us=_closed_until_us(observations, task),
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


def _closed_until_us(table: Path | str, task: TaskFile) -> int:
    """Decisions up to this time have all their windows closed at the table's watermark, microseconds since the epoch."""
    return (observed_watermark_us(table) or 0) - observed.longest_window_us(task)
