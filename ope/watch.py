"""The gate's loop: look at the open challenger, and when there is a verdict, keep it, act on it and close the challenger."""

import time
from collections.abc import Callable
from pathlib import Path

from bandits.errors import ChampionMoved, FeatureError, SnapshotError
from bandits.loaded import LoadedPolicy
from bandits.store import Challenger, Pointer, Store
from ope.errors import GateError, RowsError, VerdictError
from ope.evidence import Contest
from ope.gate import gate, refusal
from ope.gate_config import GateConfig
from ope.judge import Judge, contest_of
from ope.promotion import promote
from ope.report import report_html
from ope.verdict import Verdict, to_json, to_mapping
from protos.errors import ObservationsError
from protos.task import TaskFile

__all__ = ["ACTOR", "Watch", "now_us", "write_reports"]

# Who moved the champion, in the store's audit log.
ACTOR = "ope gate"


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000


class Watch:
    """Looks at one task's challengers, one look a call of `look`."""

    def __init__(
        self,
        store: Store,
        *,
        task: TaskFile,
        config: GateConfig,
        observations: Path | str,
        reports: Path,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._store, self._task, self._config = store, task, config
        self._observations, self._reports, self._clock = observations, reports, clock
        self._judge: Judge | None = None
        # The champion serves, and is judged against again and again.
        self._incumbent: LoadedPolicy | None = None

    def look(self, *, complete: bool = False) -> Verdict | None:
        """One look: None where there is no challenger, or no champion or table yet; a verdict `wait` changes nothing.

        `complete`: no more rows will come, so `wait` is no answer. Raises SnapshotError for a damaged champion; a challenger that is
        damaged, or cannot be judged, is vetoed.
        """
        challenger, champion = next(iter(self._store.challengers()), None), self._store.champion()
        if challenger is None or champion is None or self._closed_already(challenger, champion):
            return None
        if self._incumbent is None or self._incumbent.digest != champion.digest:
            self._incumbent = self._store.load(champion.digest)
        try:
            return self._judged(challenger, champion, self._incumbent, complete)
        except ObservationsError:
            # The joiner has not made the table yet.
            return None
        except (SnapshotError, FeatureError, GateError, RowsError) as error:
            contest = Contest(
                self._task.name, challenger.digest, champion.digest, challenger.kind, "", champion.generation, 0, self._task.digest
            )
            return refusal(contest, self._config, reason=f"The challenger cannot be judged: {error}.", now_us=self._clock())

    def conclude(self, verdict: Verdict) -> str | None:
        """Keeps a verdict in the store and in the folder of reports, acts on it and closes its challenger; returns its id.

        If the champion moved since the look, nothing is promoted, the challenger stays open for a new contest, and the answer is None.
        """
        mapping = to_mapping(verdict)
        verdict_id = self._store.put_verdict(mapping)
        self._judge = None
        if verdict.decision == "promote":
            try:
                promote(self._store, mapping, now_us=self._clock(), actor=ACTOR)
            except (ChampionMoved, VerdictError):
                return None
        self._store.close_challenger(verdict.contest.challenger, verdict_id)
        # Last: pictures take a second, and `ope report` can draw them again.
        write_reports(self._reports, name=verdict_id, verdict=verdict)
        return verdict_id

    def _judged(self, challenger: Challenger, champion: Pointer, incumbent: LoadedPolicy, complete: bool) -> Verdict:
        contest = contest_of(self._store, self._task, challenger=challenger, champion=champion)
        if self._judge is None or self._judge.contest != contest:
            self._judge = Judge(
                contest,
                task=self._task,
                config=self._config,
                observations=self._observations,
                challenger=self._store.load(challenger.digest),
                champion=incumbent,
            )
        return gate(self._judge.gather(complete=complete, now_us=self._clock()), self._config)

    def _closed_already(self, challenger: Challenger, champion: Pointer) -> bool:
        """Whether the challenger was promoted, but the process ended before it was closed; then closes it."""
        if challenger.digest != champion.digest:
            return False
        self._store.close_challenger(challenger.digest, champion.verdict)
        return True


def write_reports(folder: Path, *, name: str, verdict: Verdict) -> dict[str, Path]:
    """Writes a verdict as `<name>.json` and `<name>.html`, and returns the paths by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, Callable[[Verdict], str]] = {"json": lambda v: to_json(to_mapping(v)), "html": report_html}
    paths: dict[str, Path] = {kind: folder / f"{name}.{kind}" for kind in contents}
    for kind, make in contents.items():
        paths[kind].write_text(make(verdict), encoding="utf-8")
    return paths
