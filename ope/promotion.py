"""Moves the champion, by the store's one function, quoting a verdict."""

from collections.abc import Mapping
from typing import Any

from bandits.store import Pointer, Store
from ope.errors import VerdictError
from ope.verdict import from_mapping

__all__ = ["promote"]


def promote(store: Store, verdict: Mapping[str, Any], *, now_us: int, actor: str) -> Pointer:
    """Makes the verdict's challenger the champion.

    Raises VerdictError for a verdict that is not `promote`, or was reached against another champion than stands now; ChampionMoved if
    the pointer moves meanwhile; StoreError.
    """
    read, standing = from_mapping(verdict), store.champion()
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
    return store.promote(read.contest.challenger, verdict=verdict, expected=standing, now_us=now_us, actor=actor)
