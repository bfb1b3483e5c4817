"""Moves the champion, by the store's one function, quoting a verdict."""

from collections.abc import Mapping
from typing import Any

from bandits.store import Pointer, Store
from ope.errors import VerdictError
from ope.gate.verdict import from_mapping

__all__ = ["promote"]


def promote(store: Store, verdict: Mapping[str, Any], *, now_us: int, actor: str) -> Pointer:
    """Gives the verdict's challenger the share of the traffic that the verdict allows: 1 = it becomes the champion.

    Raises VerdictError for a verdict that is not `promote`, was reached by a rerun with another config, or against another champion
    than stands now; ChampionMoved if the pointer moves meanwhile; StoreError.
    """
    read, standing = from_mapping(verdict), store.champion()
    if read.overridden:
        changed = ", ".join(f"{key}={value}" for key, value in read.overridden.items())
        raise VerdictError(f"verdict: a rerun with {changed} overridden; such a verdict never promotes: declare the config and judge anew")
    if read.decision != "promote":
        raise VerdictError(f"verdict: decision is {read.decision!r}; only a verdict `promote` promotes: {' '.join(read.reasons)}")
    if standing is None:
        raise VerdictError(f"champion: task {read.contest.task!r} has none; begin the task with `bandits learn`")
    if (standing.digest, standing.generation) != (read.contest.champion, read.contest.generation):
        raise VerdictError(
            f"verdict: judged against champion {read.contest.champion} (move {read.contest.generation}), but {standing.digest} (move "
            f"{standing.generation}) stands; judge the challenger again"
        )
    if read.decided_us < standing.moved_us:
        raise VerdictError(f"verdict: of {read.decided_us} us, older than its champion, of {standing.moved_us} us; judge again")
    return store.promote(read.contest.challenger, verdict=verdict, expected=standing, now_us=now_us, actor=actor, share=read.next_share)
