"""The pointer of a task: which snapshot serves, and what a move makes of it. Pure; the store writes it down."""

from typing import NamedTuple

from bandits.errors import StoreError, VerdictRefused
from bandits.traffic import Split

__all__ = ["Pointer", "begun", "promoted", "rolled_back"]


class Pointer(NamedTuple):
    """Which snapshot serves. `generation` counts the moves; `verdict` is the id of the one quoted; `baseline` is the first champion.

    While a promotion is staged, `challenger` decides for `share` of the units, in (0, 1), dealt by `salt`; `stage_verdict` is the id of
    the verdict that gave it this share. Without one they are "", 0, "" and "".
    """

    digest: str
    previous: str
    verdict: str
    generation: int
    moved_us: int
    baseline: str
    challenger: str = ""
    share: float = 0.0
    salt: str = ""
    stage_verdict: str = ""

    @property
    def split(self) -> Split | None:
        """The challenger's part of the traffic; None where no promotion is staged."""
        return Split(self.challenger, self.share, self.salt) if self.challenger else None

    @property
    def quoted(self) -> str:
        """Id of the verdict of the latest step; "" before the first promotion."""
        return self.stage_verdict or self.verdict


def begun(digest: str, *, now_us: int) -> Pointer:
    """The first champion, and baseline."""
    return Pointer(digest=digest, previous="", verdict="", generation=1, moved_us=now_us, baseline=digest)


def promoted(standing: Pointer, digest: str, *, verdict_id: str, share: float, now_us: int) -> Pointer:
    """The pointer after one step of a promotion: a share in (0, 1) of the traffic, or with 1 the champion's place.

    The salt is the id of the verdict of the first step, so each contest deals anew, and its later steps only add units. Raises
    VerdictRefused for a share that is none or does not grow, or while another challenger has one.
    """
    if not 0 < share <= 1:
        raise VerdictRefused(f"share: {share} is refused; give the challenger's part of the traffic, in (0, 1]")
    if standing.challenger not in ("", digest):
        raise VerdictRefused(f"challenger: {standing.challenger} has {standing.share:.0%} of the traffic; end that first, with a rollback")
    if share <= standing.share:
        raise VerdictRefused(f"share: {share} is not above the {standing.share} that the challenger has; a step only grows it")
    step = standing._replace(generation=standing.generation + 1, moved_us=now_us)
    if share < 1:
        return step._replace(challenger=digest, share=share, salt=standing.salt or verdict_id, stage_verdict=verdict_id)
    return _unstaged(step)._replace(digest=digest, previous=standing.digest, verdict=verdict_id)


def rolled_back(standing: Pointer, *, now_us: int) -> Pointer:
    """The pointer before the latest promotion: a staged challenger loses its share, else the previous champion returns.

    Raises StoreError if there is nothing to go back to.
    """
    step = standing._replace(generation=standing.generation + 1, moved_us=now_us)
    if standing.challenger:
        return _unstaged(step)
    if not standing.previous:
        raise StoreError("champion: there is no previous one to roll back to")
    return step._replace(digest=standing.previous, previous=standing.digest)


def _unstaged(pointer: Pointer) -> Pointer:
    return pointer._replace(challenger="", share=0.0, salt="", stage_verdict="")
