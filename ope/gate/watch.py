"""The gate's loop: look at the open challenger, and when there is a verdict, keep it, act on it and close the challenger."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from bandits.errors import ChampionMoved, FeatureError, SnapshotError
from bandits.loaded import LoadedPolicy
from bandits.store import Challenger, Pointer, Store
from ope.errors import GateError, RowsError, VerdictError
from ope.gate.config import GateConfig
from ope.gate.decide import both, gate, gate_family, refusal
from ope.gate.evidence import Contest
from ope.gate.follow_up import FollowUp, follow_up
from ope.gate.judge import Judge, Look, Policies, anchor_digest, contest_of, read_account
from ope.gate.look_record import declare, record
from ope.gate.looks import Declared
from ope.gate.promotion import promote
from ope.gate.report import report_html
from ope.gate.verdict import Verdict, from_mapping, to_json, to_mapping
from protos.errors import ObservationsError
from protos.task import TaskFile

__all__ = ["ACTOR", "Watch", "now_us", "write_reports"]

# Who moved the champion, in the store's audit log.
ACTOR = "ope gate"


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000


class Watch:
    """Looks at one task's challengers, one look a call of `look`; and at what came of the latest promotion, one a call of `follow`."""

    def __init__(
        self,
        store: Store,
        *,
        task: TaskFile,
        config: GateConfig,
        observations: Path | str,
        reports: Path,
        account: Path | None = None,
        clock: Callable[[], int] = now_us,
    ) -> None:
        """`account`: the JSON that `attribution status --json` prints, read at every look for lost decisions.

        Without it they are counted in the events that landed beside the table.
        """
        self._store, self._task, self._config = store, task, config
        self._observations, self._reports, self._account, self._clock = observations, reports, account, clock
        self._judge: Judge | None = None
        self._follower: Judge | None = None
        self._followed: FollowUp | None = None
        # The champion serves, and is judged against again and again.
        self._incumbent: LoadedPolicy | None = None

    def look(self, *, complete: bool = False) -> Verdict | None:
        """One look: None where there is no challenger, or no champion or table yet; a verdict `wait` changes nothing.

        `complete`: no more rows will come, so `wait` is no answer. Raises SnapshotError for a damaged champion, GateError where the
        config was changed after the first look, a second look is taken under `looks: 1`, or a guardrail cannot be read; a challenger
        that is damaged, or cannot be judged, is vetoed.
        """
        challenger, champion = next(iter(self._store.challengers()), None), self._store.champion()
        if challenger is None or champion is None or self._closed_already(challenger, champion):
            return None
        incumbent = self._champion(champion)
        standing = declare(self._store, self._config, challenger=challenger.digest, generation=champion.generation, now_us=self._clock())
        try:
            verdict = self._judged(challenger, champion, incumbent, standing, complete)
        except ObservationsError:
            # The joiner has not made the table yet.
            return None
        except (SnapshotError, FeatureError, RowsError) as error:
            contest = Contest(
                self._task.name, challenger.digest, champion.digest, challenger.kind, "", champion.generation, 0, self._task.digest
            )
            return refusal(contest, self._config, reason=f"The challenger cannot be judged: {error}.", now_us=self._clock())
        record(self._store, standing, verdict)
        return verdict

    def family(self, digests: list[str]) -> list[Verdict]:
        """Judges several published snapshots on the rows that are there, sharing the level; at most the best is promoted.

        Raises GateError without a champion, and as `look` does.
        """
        champion = self._store.champion()
        if champion is None:
            raise GateError(f"task {self._task.name!r} has no champion; begin it with `bandits learn`")
        incumbent, moment = self._champion(champion), self._clock()
        kinds = {digest: self._store.manifest(digest).kind for digest in digests}
        evidence = []
        for digest in digests:
            standing = declare(self._store, self._config, challenger=digest, generation=champion.generation, now_us=moment)
            contest = contest_of(self._store, self._task, challenger=Challenger(digest, kinds[digest], 0, ""), champion=champion)
            evidence.append(self._new_judge(contest, champion, incumbent).gather(self._look(standing, complete=True)))
        return gate_family(evidence, self._config)

    def conclude(self, verdict: Verdict) -> str | None:
        """Keeps a verdict in the store and in the folder of reports, acts on it and closes its challenger; returns its id.

        A step of a staged promotion leaves the challenger open for the next; a step that is not passed takes its share away. If the
        champion moved since the look, nothing is promoted, the challenger stays open for a new contest, and the answer is None.
        """
        mapping = to_mapping(verdict)
        verdict_id = self._store.put_verdict(mapping)
        self._judge = None
        if verdict.decision == "promote":
            try:
                promote(self._store, mapping, now_us=self._clock(), actor=ACTOR)
            except (ChampionMoved, VerdictError):
                return None
        elif verdict.contest.share:
            reason = f"step at {verdict.contest.share:.0%} not passed: {' '.join(verdict.reasons)}"
            self._store.rollback(reason=reason, evidence=verdict_id, now_us=self._clock(), actor=ACTOR)
        if verdict.decision != "promote" or verdict.next_share == 1:
            self._store.close_challenger(verdict.contest.challenger, verdict_id)
        # Last: pictures take a second, and `ope report` can draw them again.
        write_reports(self._reports, name=verdict_id, verdict=verdict)
        return verdict_id

    def follow(self) -> FollowUp | None:
        """One look at the latest promotion; None where there is none, or nothing new since the last look.

        Keeps what came in the store. A wrong prediction is told in the audit log once; a broken guardrail rolls the champion back, and
        the audit log quotes both verdicts.
        """
        pointer = self._store.champion()
        if pointer is None or not pointer.verdict or not pointer.previous or pointer.split is not None:
            return None
        promoted = from_mapping(self._store.verdict(pointer.verdict))
        if promoted.contest.challenger != pointer.digest:
            # Rolled back since.
            return None
        try:
            evidence = self._follower_of(pointer, promoted).gather(self._look(None, complete=False), kind="offline")
        except ObservationsError:
            return None
        found, removal = follow_up(evidence, self._config, verdict_id=pointer.verdict, promoted=promoted)
        return self._told(found, removal)

    def _told(self, found: FollowUp, removal: Verdict | None) -> FollowUp | None:
        before, self._followed = self._followed, found
        if before is not None and (before.verdict, before.rows) == (found.verdict, found.rows):
            return None
        self._store.put_note("followups", found.verdict, found.note())
        if found.wrong and not (before is not None and before.verdict == found.verdict and before.wrong):
            self._store.remark("prediction_wrong", verdict=found.verdict, reason=found.said, time_us=found.looked_us, actor=ACTOR)
        if removal is not None:
            evidence = self._store.put_verdict(to_mapping(removal))
            self._store.rollback(reason=" ".join(found.broken), evidence=evidence, now_us=self._clock(), actor=ACTOR)
            write_reports(self._reports, name=evidence, verdict=removal)
        return found

    def _follower_of(self, pointer: Pointer, promoted: Verdict) -> Judge:
        contest = dataclasses.replace(
            promoted.contest,
            champion=pointer.previous,
            kind="refresh",
            generation=pointer.generation,
            share=0.0,
            step_began_us=pointer.moved_us,
        )
        if self._follower is None or self._follower.contest != contest:
            policies = Policies(self._champion(pointer), self._store.load(pointer.previous))
            self._follower = Judge(
                contest, policies, task=self._task, config=self._config, observations=self._observations, decided_by=pointer.digest
            )
        return self._follower

    def _champion(self, pointer: Pointer) -> LoadedPolicy:
        if self._incumbent is None or self._incumbent.digest != pointer.digest:
            self._incumbent = self._store.load(pointer.digest)
        return self._incumbent

    def _judged(self, challenger: Challenger, champion: Pointer, incumbent: LoadedPolicy, standing: Declared, complete: bool) -> Verdict:
        contest = contest_of(self._store, self._task, challenger=challenger, champion=champion)
        if self._judge is None or self._judge.contest != contest:
            self._judge = self._new_judge(contest, champion, incumbent)
        judge, look = self._judge, self._look(standing, complete=complete)
        # Before the first step no arm has run.
        asked = self._config.evidence if contest.share else "offline"
        verdicts = [gate(judge.gather(look, kind=kind), self._config) for kind in ("offline", "online") if asked in (kind, "both")]
        return verdicts[0] if len(verdicts) == 1 else both(verdicts[0], verdicts[1])

    def _new_judge(self, contest: Contest, champion: Pointer, incumbent: LoadedPolicy) -> Judge:
        anchor = anchor_digest(self._config, champion)
        policies = Policies(self._store.load(contest.challenger), incumbent, self._store.load(anchor) if anchor else None)
        return Judge(contest, policies, task=self._task, config=self._config, observations=self._observations)

    def _look(self, standing: Declared | None, *, complete: bool) -> Look:
        logged, lost = read_account(self._account)
        before, number = (standing.looks, standing.challenger_in_period) if standing is not None else (0, 1)
        return Look(self._clock(), complete, before, number, logged, lost, drift=_drift(self._store))

    def _closed_already(self, challenger: Challenger, champion: Pointer) -> bool:
        """Whether the challenger was promoted, but the process ended before it was closed; then closes it."""
        if challenger.digest != champion.digest:
            return False
        self._store.close_challenger(challenger.digest, champion.verdict)
        return True


def _drift(store: Store) -> tuple[float, str]:
    """The feature of the champion's requests that moved most, of what any server keeps in the store: its index and its name."""
    pointer = store.champion()
    notes = [note for note in store.notes("drift").values() if pointer is not None and note["digest"] == pointer.digest]
    return max(((float(one["psi"]), name) for note in notes for name, one in note["features"].items()), default=(0.0, ""))


def write_reports(folder: Path, *, name: str, verdict: Verdict) -> dict[str, Path]:
    """Writes a verdict as `<name>.json` and `<name>.html`, and returns the paths by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, Callable[[Verdict], str]] = {"json": lambda v: to_json(to_mapping(v)), "html": report_html}
    paths: dict[str, Path] = {kind: folder / f"{name}.{kind}" for kind in contents}
    for kind, make in contents.items():
        paths[kind].write_text(make(verdict), encoding="utf-8")
    return paths
