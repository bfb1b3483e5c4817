"""How the loop stands: read from the store and the observations table, which is all that the parts share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bandits.errors import BanditsError
from bandits.store import Store
from protos.errors import ObservationsError
from protos.observation_reader import revisions_count

__all__ = ["Judgement", "Standing", "standing"]


class Judgement(NamedTuple):
    """One verdict, in brief. Estimates are None where the verdict is a veto: what must not be believed is not shown.

    `challenger` and `difference` are (value, lower, upper), in units of reward per decision.
    """

    decision: str
    digest: str
    champion: str
    kind: str
    label: str
    reasons: tuple[str, ...]
    rows: int
    decided_us: int
    challenger: tuple[float, float, float] | None
    difference: tuple[float, float, float] | None


class Standing(NamedTuple):
    """The loop at one moment."""

    observations: int
    champion: str
    policy: str
    generation: int
    waiting: str
    judgements: tuple[Judgement, ...]
    # When a verdict moved the champion, microseconds since the epoch.
    promoted_us: tuple[int, ...]

    def count(self, decision: str) -> int:
        """Verdicts of a kind: promote, hold or veto."""
        return sum(judgement.decision == decision for judgement in self.judgements)


def standing(store: Store, observations: Path) -> Standing:
    """What the store and the table say now."""
    pointer = store.champion()
    waiting = store.challengers()
    try:
        rows = revisions_count(observations)
    except ObservationsError:
        rows = 0
    return Standing(
        observations=rows,
        champion=pointer.digest if pointer else "",
        policy=_policy(store, pointer.digest) if pointer else "",
        generation=pointer.generation if pointer else 0,
        waiting=waiting[0].digest if waiting else "",
        judgements=tuple(_judgement(store.verdict(verdict_id)) for verdict_id in store.verdict_ids()),
        promoted_us=tuple(entry["time_us"] for entry in store.audit() if entry["action"] == "promote"),
    )


def _policy(store: Store, digest: str) -> str:
    try:
        return store.manifest(digest).policy
    except BanditsError:
        return "?"


def _judgement(verdict: Mapping[str, Any]) -> Judgement:
    deciding = verdict["estimates"].get(verdict["estimator"], {})
    return Judgement(
        decision=verdict["decision"],
        digest=verdict["challenger"],
        champion=verdict["champion"],
        kind=verdict["kind"],
        label=verdict["label"],
        reasons=tuple(verdict["reasons"]),
        rows=verdict["rows"],
        decided_us=verdict["decided_us"],
        challenger=_interval(deciding.get("challenger")),
        difference=_interval(deciding.get("difference")),
    )


def _interval(estimate: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    if estimate is None or estimate["value"] is None:
        return None
    return tuple(float("nan") if estimate[key] is None else estimate[key] for key in ("value", "lower", "upper"))  # type: ignore[return-value]
