"""The learner: follows the observations table, and publishes one challenger at a time. Touches the table and the store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bandits.catalog import exact_update, outcomes
from bandits.config import TaskPolicy
from bandits.errors import SnapshotError
from bandits.histograms import FeatureHistogram, Seen, histograms
from bandits.programs import update_program
from bandits.snapshots import Draft, Manifest
from bandits.standing_baseline import starting_state
from bandits.store import Challenger, Store
from bandits.training import absorb, chain_of_revisions, training_rows
from protos.observation_reader import Cursor, revisions_of, revisions_since

__all__ = ["Learner", "Progress"]


# Newest decisions whose features a snapshot describes.
_FEATURE_ROWS = 10_000


class Progress(NamedTuple):
    """What a learner's state has seen: the table's cursor, decisions in all, and the time of the newest one.

    `other_schema` counts revisions, since the start, of decisions that were encoded by another feature schema: they are not learned.
    """

    cursor: Cursor
    rows: int
    training_watermark_us: int
    other_schema: int = 0


class Learner:
    """Learns one task's policy. State and progress go into one snapshot, so a restart repeats nothing and loses nothing."""

    def __init__(self, store: Store, task: TaskPolicy, observations: Path) -> None:
        self._store, self._task, self._observations = store, task, observations
        self._update = update_program(task.spec)
        self._state: Any = starting_state(store, task)
        self._exact = exact_update(task.spec)
        self._outcomes = outcomes(task.spec)
        self.progress = Progress(cursor={}, rows=0, training_watermark_us=0)
        self.parent = ""
        self._published_rows = 0
        self._seen: Seen | None = None
        self._features: Mapping[str, FeatureHistogram] = {}

    def resume(self) -> str:
        """Continues the newest sound snapshot of this very policy; returns its digest, empty where there is none."""
        for digest in reversed(self._store.digests()):
            try:
                manifest = self._store.manifest(digest)
                if not self._continues(manifest):
                    continue
                self._state = self._store.read(digest).state
            except SnapshotError:
                continue
            self.progress = Progress(manifest.cursor, manifest.rows, manifest.training_watermark_us)
            self.parent, self._published_rows = digest, manifest.rows
            self._features = manifest.features
            return digest
        return ""

    def absorb(self) -> int:
        """Learns from every revision that was committed since; returns how many decisions were new."""
        committed, cursor = revisions_since(self._observations, task=self._task.name, cursor=self.progress.cursor)
        fetched = committed.filter(pc.equal(committed["schema_digest"], self._task.schema.digest))
        other = self.progress.other_schema + committed.num_rows - fetched.num_rows
        self.progress = self.progress._replace(cursor=cursor, other_schema=other)
        if fetched.num_rows == 0:
            return 0
        rows = training_rows(
            self._signed(fetched),
            actions=self._task.schema.actions,
            context_size=self._task.schema.context_size,
            feature_size=self._task.schema.action_feature_size,
            train_on=self._task.section.train_on,
            outcomes=self._outcomes,
        )
        self._state = absorb(self._update, self._state, rows)
        self._look_at(fetched)
        new = pc.sum(pc.equal(fetched["revision"], 1)).as_py()
        newest = max(self.progress.training_watermark_us, pc.max(fetched["decision_time_us"]).as_py())
        self.progress = self.progress._replace(rows=self.progress.rows + new, training_watermark_us=newest)
        return int(new)

    def _look_at(self, fetched: pa.Table) -> None:
        """Keeps the features of the newest decisions."""
        new = fetched.filter(pc.equal(fetched["revision"], 1)).slice(max(fetched.num_rows - _FEATURE_ROWS, 0))
        context = np.array(new["context"].to_pylist(), np.float32).reshape(new.num_rows, self._task.schema.context_size)
        rows = Seen(context, [names or () for names in new["defaulted_features"].to_pylist()])
        self._seen = (rows if self._seen is None else self._seen.joined(rows)).last(_FEATURE_ROWS)

    def due(self) -> bool:
        """Is there enough new to ask for a verdict, and nothing that still waits for one?"""
        enough = self.progress.rows - self._published_rows >= self._task.section.min_new_rows
        return enough and not self._store.challengers()

    def publish(self, *, now_us: int, label: str = "") -> Challenger:
        """Publishes the state as challenger. Raises StoreError while another one waits, SnapshotError for damaged numbers."""
        digest = self._store.publish(self._draft(now_us, label))
        challenger = self._store.challenge(digest, now_us=now_us)
        self.parent, self._published_rows = digest, self.progress.rows
        return challenger

    def _continues(self, manifest: Manifest) -> bool:
        """Is it a snapshot of this very policy, on these features and this action table (whose order is the order of the state)?"""
        task = self._task
        same_rows = manifest.actions == task.schema.actions and manifest.schema_digest == task.schema.digest
        return same_rows and manifest.spec == task.spec and not manifest.label

    def _signed(self, fetched: pa.Table) -> pa.Table:
        """The rows to add, with what they replace; a policy that cannot take a row back learns each decision once, when it is final."""
        if not self._exact:
            fetched = fetched.filter(pc.equal(fetched["status"], "final"))
            return fetched.append_column("sign", pa.array([1.0] * fetched.num_rows, pa.float64()))
        revised = fetched.filter(pc.greater(fetched["revision"], 1))["decision_id"].to_pylist()
        earlier = revisions_of(self._observations, task=self._task.name, decision_ids=revised) if revised else fetched.slice(0, 0)
        return chain_of_revisions(fetched, earlier)

    def _draft(self, now_us: int, label: str) -> Draft:
        task = self._task
        champion = self._store.champion()
        same = champion is not None and self._store.manifest(champion.digest).spec == task.spec
        return Draft(
            spec=task.spec,
            state=self._state,
            manifest={
                "tenant": task.tenant,
                "task": task.name,
                "actions": task.schema.actions,
                "schema_digest": task.schema.digest,
                "config_digest": task.config_digest,
                "kind": "refresh" if same else "change",
                "parent": self.parent,
                "training_watermark_us": self.progress.training_watermark_us,
                "rows": self.progress.rows,
                "cursor": dict(self.progress.cursor),
                "created_us": now_us,
                "label": label,
                "features": dict(histograms(self._seen, task.schema) if self._seen is not None else self._features),
            },
        )
