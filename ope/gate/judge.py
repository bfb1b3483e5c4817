"""Reads the store and the observations table, and gathers the evidence on a challenger. Scores each row once."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bandits.config import parse_task
from bandits.loaded import LoadedPolicy
from bandits.store import Challenger, Pointer, Store
from bandits.traffic import CHALLENGER_ARM, CHAMPION_ARM
from ope import observed, scoring
from ope.errors import GateError, SourceError
from ope.gate.config import GateConfig
from ope.gate.evidence import Contest, Evidence, JudgedRows, Setting, evidence_of
from ope.gate.facts import COLUMNS, draws, segments, with_facts
from ope.rows import Floats
from ope.snapshot_rows import closed_until_us
from protos.landed_reader import LandedAccount, landed_account
from protos.observation_reader import Cursor, observed_watermark_us, revisions_since
from protos.task import TaskFile

__all__ = ["ONLINE", "Judge", "Look", "Policies", "anchor_digest", "contest_of", "read_account"]

# The estimators of randomised arms: mean by arm, and the same without dividing by what the arm's weights add up to.
ONLINE = ("snips", "ips")
# Numerators of two platforms agree within this probability (serving replays with the same).
_TOLERANCE = 1e-6 * 2**31
_SECOND_US = 1_000_000
_VERSIONS = ("slateloop", "numpy", "jax", "scipy")


class Policies(NamedTuple):
    """Who is scored: the challenger, the champion, and the anchor where that is somebody else."""

    challenger: LoadedPolicy
    champion: LoadedPolicy
    anchor: LoadedPolicy | None = None


class Look(NamedTuple):
    """One look: when, whether it is the last, and what the record of looks says (see `Setting`).

    `logged`, `lost`: of an account that was given; None = of the events that landed beside the table, if there are any.
    `closed_until_us`, `watermark_us`: of a look that is taken again; None = of the table now.
    """

    now_us: int
    complete: bool
    looks_before: int = 0
    challenger_in_period: int = 1
    logged: int | None = None
    lost: int = 0
    closed_until_us: int | None = None
    watermark_us: int | None = None
    # The feature that moved most against the champion's training rows, and by how much (PSI); "" = none was told of.
    drift: tuple[float, str] = (0.0, "")


def contest_of(store: Store, task: TaskFile, *, challenger: Challenger, champion: Pointer) -> Contest:
    """The contest of a challenger against the champion. Raises SnapshotError, UnknownSnapshot from the store."""
    manifest, incumbent = store.manifest(challenger.digest), store.manifest(champion.digest)
    staged = champion.challenger == challenger.digest
    return Contest(
        task=task.name,
        challenger=challenger.digest,
        champion=champion.digest,
        kind=challenger.kind,
        label=manifest.label,
        generation=champion.generation,
        training_watermark_us=max(manifest.training_watermark_us, incumbent.training_watermark_us),
        config_digest=task.digest,
        share=champion.share if staged else 0.0,
        step_began_us=champion.moved_us if staged else 0,
    )


def anchor_digest(config: GateConfig, pointer: Pointer) -> str:
    """Digest of the anchor; "" where there is none beside the champion."""
    digest = pointer.baseline if config.anchor == "baseline" else config.anchor
    return "" if digest == pointer.digest else digest


def read_account(path: Path | None) -> tuple[int | None, int]:
    """Decisions logged, and lost (expired or quarantined), of the JSON that `attribution status --json` prints; None, 0 without a file."""
    if path is None:
        return None, 0
    try:
        account = json.loads(path.read_text(encoding="utf-8"))
        return int(account["logged"]), int(account["expired"]) + int(account["quarantined"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GateError(f"--account: {path} is no account ({error!r}); give the output of `attribution status --json`") from error


class Judge:
    """Gathers evidence on one contest, look after look; rows that were scored at an earlier look are not scored again."""

    def __init__(
        self,
        contest: Contest,
        policies: Policies,
        *,
        task: TaskFile,
        config: GateConfig,
        observations: Path | str,
        until: Cursor | None = None,
        decided_by: str = "",
    ) -> None:
        """`until`: commits beyond are not read, for a look that is taken again. `decided_by`: rows of this snapshot only, "" = of any."""
        self.contest = contest
        self._policies, self._task, self._config, self._table, self._until = policies, task, config, observations, until
        self._schema, self._decided_by = parse_task(task).schema, decided_by
        self._scored = [policy for policy in policies if policy is not None]
        # The challenger's learner had seen the commits up to here, so no later decision stands in them.
        self._cursor: Cursor = policies.challenger.manifest.cursor
        # Latest revisions of the decisions after the training watermark, and their scores.
        self._latest: pa.Table | None = None
        self._scores = scoring.no_scores(len(self._scored))
        self._began_us = max(contest.training_watermark_us, contest.step_began_us)
        # Up to when decisions were counted last, and what was found.
        self._account: tuple[int, LandedAccount | None] | None = None

    def gather(self, look: Look, *, kind: str = "offline") -> Evidence:
        """The evidence in all rows that are closed by now.

        Raises GateError for a guardrail that no row has; ObservationsError, SourceError, FeatureError, RowsError.
        """
        # In this order: what has landed and is closed by then has a row, or never will.
        closed = self._closed_until_us(look)
        self._follow()
        look = self._accounted(look, closed)
        rows, excluded = observed.usable(observed.settled(self._latest_until(closed)))
        if kind == "online":
            rows = self._in_arms(rows)
        if self._decided_by:
            rows = rows.filter(pc.field("snapshot_digest") == self._decided_by)
        seen = observed.observed(rows, metric=self._config.metric)
        rewards = {rail.metric: self._guardrail(rows, rail.metric) for rail in self._config.guardrails}
        if kind == "online":
            judged, names = self._arms(rows, seen, rewards, excluded), ONLINE
        else:
            judged, names = self._weighted(rows, seen, rewards, excluded), (self._config.estimator, self._config.cross_check)
        setting = self._setting(look, closed, kind, seen)
        return evidence_of(self.contest, judged, estimators=names, setting=setting)

    def _follow(self) -> None:
        """Reads the revisions committed since the last look; scores decisions that are new."""
        revisions, cursor = revisions_since(self._table, task=self._task.name, cursor=self._cursor)
        if self._until is not None:
            revisions, cursor = _committed_until(revisions, self._until), dict(self._until)
        self._cursor = cursor
        revisions = revisions.filter(pc.field("decision_time_us") > self._began_us)
        if revisions.num_rows == 0 and self._latest is not None:
            return
        slim = revisions.select([*observed.COLUMNS, *COLUMNS])
        slim = with_facts(slim, revisions, schema=self._schema, features=self._config.segments)
        self._latest = observed.latest(slim if self._latest is None else pa.concat_tables([self._latest, slim]))
        once = observed.latest(revisions)
        new = once.filter(pa.array(scoring.missing(self._scores, once["decision_id"].to_pylist()), pa.bool_()))
        if new.num_rows:
            self._scores = scoring.add_scores(self._scores, scoring.score(new, self._scored))

    def _closed_until_us(self, look: Look) -> int:
        if look.closed_until_us is not None:
            return look.closed_until_us
        return closed_until_us(self._table, self._task) - round(self._config.min_age_s * _SECOND_US)

    def _accounted(self, look: Look, closed: int) -> Look:
        """The look with the account of the contest's closed decisions, unless it has one or is taken again."""
        if look.logged is not None or look.closed_until_us is not None:
            return look
        assert self._latest is not None
        if self._account is None or self._account[0] != closed:
            found = landed_account(
                self._table, task=self._task.name, after_us=self._began_us, until_us=closed, joined=self._latest["decision_id"]
            )
            self._account = (closed, found)
        counted = self._account[1]
        return look if counted is None else look._replace(logged=counted.logged, lost=counted.lost)

    def _latest_until(self, until_us: int) -> pa.Table:
        assert self._latest is not None
        return self._latest.filter(pc.field("decision_time_us") <= until_us)

    def _guardrail(self, rows: pa.Table, metric: str) -> Floats:
        try:
            return observed.observed(rows, metric=metric).reward
        except SourceError as error:
            raise GateError(
                f"gate.guardrails: `{metric}` is declared but cannot be read ({error}); nothing is promoted until it is"
            ) from error

    def _weighted(self, rows: pa.Table, seen: observed.Observed, rewards: Mapping[str, Floats], excluded: Mapping[str, int]) -> JudgedRows:
        by_policy, _ = scoring.weights(self._scores, seen)
        novel, unsupported = self._strange(seen)
        mine = np.asarray(rows["snapshot_digest"].to_pylist(), object) == self.contest.champion
        return JudgedRows(
            seen.decision_time_us,
            seen.unit,
            seen.reward,
            by_policy[0],
            by_policy[1],
            unsupported,
            excluded,
            anchor=by_policy[2] if len(by_policy) > 2 else None,
            guardrails=rewards,
            novel=novel,
            draws=draws(rows, seen),
            replayed=mine,
            misreplayed=mine & self._differs(seen),
            reach=_reach(seen),
            segments=segments(rows),
        )

    def _arms(self, rows: pa.Table, seen: observed.Observed, rewards: Mapping[str, Floats], excluded: Mapping[str, int]) -> JudgedRows:
        """Randomised arms as weights: 1 / probability of the arm for the policy that was in it, 0 for the other. A slate is one reward."""
        arm = np.asarray(rows["arm"].to_pylist(), object)
        chance = rows["arm_probability"].to_numpy()
        challenger, champion = (np.where(arm == name, 1 / chance, 0.0)[:, None] for name in (CHALLENGER_ARM, CHAMPION_ARM))
        return JudgedRows(
            seen.decision_time_us,
            seen.unit,
            seen.reward.sum(axis=1, keepdims=True),
            challenger,
            champion,
            np.zeros(len(arm), bool),
            excluded,
            guardrails={name: reward.sum(axis=1, keepdims=True) for name, reward in rewards.items()},
            draws=draws(rows, seen),
            segments=segments(rows),
        )

    def _in_arms(self, rows: pa.Table) -> pa.Table:
        """Rows of units that were drawn into an arm, decided by that arm's own snapshot."""
        right = pa.array(
            [
                (arm, digest) in ((CHALLENGER_ARM, self.contest.challenger), (CHAMPION_ARM, self.contest.champion))
                for arm, digest in zip(rows["arm"].to_pylist(), rows["snapshot_digest"].to_pylist(), strict=True)
            ],
            pa.bool_(),
        )
        return rows.filter(right).filter(pc.field("arm_probability") < 1.0)

    def _strange(self, seen: observed.Observed) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Rows where the challenger would take an action that the champion does not know; or one that these rows hardly hold."""
        at = self._places(seen)
        taken, logged = self._scores.taken[at], self._scores.logged[at]
        actions = self._policies.challenger.manifest.actions
        counts = np.bincount(logged[logged >= 0], minlength=len(actions) + 1)
        known = set(self._policies.champion.manifest.actions)
        new = np.array([action not in known for action in actions] + [False] * (len(counts) - len(actions)), bool)
        place = np.clip(taken, 0, len(counts) - 1)
        novel = np.any((taken >= 0) & new[place], axis=1)
        hardly = (taken >= 0) & ~new[place] & (counts[place] < self._config.min_action_rows)
        return novel, np.any(hardly, axis=1)

    def _differs(self, seen: observed.Observed) -> npt.NDArray[np.bool_]:
        """Rows whose logged numerators are not those of the champion's snapshot."""
        numerator = self._scores.numerator[self._places(seen), 1].astype(np.float64)
        slots = min(numerator.shape[1], seen.numerator.shape[1])
        apart = np.abs(numerator[:, :slots] - seen.numerator[:, :slots]) > _TOLERANCE
        return np.asarray(np.any(apart & seen.present[:, :slots], axis=1), np.bool_)

    def _places(self, seen: observed.Observed) -> npt.NDArray[np.intp]:
        return np.array([self._scores.place[decision_id] for decision_id in seen.decision_id], np.intp)

    def _setting(self, look: Look, closed: int, kind: str, seen: observed.Observed) -> Setting:
        watermark = look.watermark_us if look.watermark_us is not None else observed_watermark_us(self._table) or 0
        inputs: dict[str, Any] = {
            "rows_sha256": _digest_of(seen),
            "cursor": {str(partition): seq for partition, seq in self._cursor.items()},
            "closed_until_us": closed,
            "watermark_us": watermark,
            "complete": look.complete,
            "logged": look.logged,
            "lost": look.lost,
            "looks_before": look.looks_before,
            "challenger_in_period": look.challenger_in_period,
            "anchor": self._policies.anchor.digest if self._policies.anchor is not None else "",
            "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
        }
        if self._config.max_psi is not None:
            inputs["drift"] = list(look.drift)
        return Setting(
            look.complete,
            look.now_us,
            watermark,
            look.logged,
            look.lost,
            look.looks_before,
            look.challenger_in_period,
            kind,
            inputs,
            look.drift,
        )


def _committed_until(revisions: pa.Table, until: Cursor) -> pa.Table:
    last = np.array([until.get(partition, 0) for partition in revisions["partition"].to_pylist()], np.int64)
    return revisions.filter(pa.array(revisions["commit_seq"].to_numpy() <= last))


def _reach(seen: observed.Observed) -> Floats | None:
    """The largest weight of a row in each slot, had its slate been sure under the target."""
    if not seen.decision_id:
        return None
    logged = np.where(seen.present, seen.numerator / 2.0**31, 1.0)
    return np.asarray((1 / np.cumprod(logged, axis=1)).max(axis=0), np.float64)


def _digest_of(seen: observed.Observed) -> str:
    """SHA-256 of the judged rows: ids, times, logged numerators and rewards, in order."""
    found = hashlib.sha256(b"".join(seen.decision_id))
    for column in (seen.decision_time_us, seen.unit, seen.numerator, seen.reward):
        found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()
