"""What a client shows while the server is away: a ranking of its own, flagged, with an event that says so. Pure.

Nothing is drawn, so each slot has propensity 1, and `logged = false` tells that learning will not use it: the event is there so that
every slate that was shown is accounted for.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bandits.keys import decision_id
from bandits.quantise import DENOMINATOR
from protos.events_pb2 import FALLBACK_REASON_CLIENT, CandidateSet, Decision, Event, Slot
from protos.policy_pb2 import SelectRequest, SelectResponse
from protos.task import DEFAULT_TENANT

__all__ = ["ARM", "POLICY", "Fallback", "Fallen", "fallen", "in_given_order", "shown_actions"]

_logger = logging.getLogger(__name__)
#: Arm and policy of a client's own slates.
ARM, POLICY = "client", "fallback"
# Request and eligible candidates -> the candidates, best first.
Ranking = Callable[[SelectRequest, Sequence[str]], Sequence[str]]


def in_given_order(request: SelectRequest, actions: Sequence[str]) -> Sequence[str]:
    """The candidates as they came: the caller's own order, or the catalogue's."""
    return actions


@dataclasses.dataclass(frozen=True)
class Fallback:
    """How a client answers by itself.

    `rank`: puts the eligible candidates in order, the same for the same request; one that raises counts as `in_given_order`.
    `actions` and `slate_size`, by task, stand until the server has told its own: so that there is an answer even before the first contact.
    `most_waiting`: events kept for the server's return, >= 1; beyond it they are dropped, and counted.
    """

    rank: Ranking = in_given_order
    actions: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    slate_size: Mapping[str, int] = dataclasses.field(default_factory=dict)
    most_waiting: int = 10_000


class Fallen(NamedTuple):
    """A slate of the client's own, and the event that tells of it."""

    response: SelectResponse
    event: Event


def shown_actions(request: SelectRequest, catalogue: Sequence[str]) -> list[str]:
    """The eligible candidates of a request: its own, or those of the catalogue as far as it is known."""
    given = request.candidates.actions or catalogue
    flags = request.candidates.eligible or [True] * len(given)
    return [action for action, flag in zip(given, flags, strict=False) if flag]


def fallen(request: SelectRequest, actions: Sequence[str], *, rank: Ranking, slate_size: int, now_us: int) -> Fallen:
    """The slate of a request whose id is set; `actions` are its eligible candidates, at least one.

    The id of the decision follows from the request's, so that the same request again is the same decision.
    """
    tenant, ranked = request.tenant or DEFAULT_TENANT, _ranked(request, actions, rank)[: request.slate_size or slate_size]
    decision = Decision(
        decision_id=decision_id(tenant=tenant, task=request.task, request_id=request.request_id, arm=ARM, snapshot_digest=""),
        tenant=tenant,
        task=request.task,
        unit_id=request.unit_id,
        request_id=request.request_id,
        parent_decision_id=request.parent_decision_id,
        event_time_us=now_us,
        context=request.context.packed,
        candidates=CandidateSet(actions=actions),
        slots=[Slot(action=action, numerator=DENOMINATOR, propensity=1.0) for action in ranked],
        policy=POLICY,
        arm=ARM,
        arm_probability=1.0,
        fallback=FALLBACK_REASON_CLIENT,
    )
    return Fallen(_answer(decision), Event(decision=decision))


def _answer(decision: Decision) -> SelectResponse:
    return SelectResponse(
        decision_id=decision.decision_id,
        slots=decision.slots,
        joint_propensity=1.0,
        policy=POLICY,
        arm=ARM,
        arm_probability=1.0,
        fallback=FALLBACK_REASON_CLIENT,
        logged=False,
        request_id=decision.request_id,
    )


def _ranked(request: SelectRequest, actions: Sequence[str], rank: Ranking) -> list[str]:
    """The ranking with what is no candidate, or comes twice, left out."""
    known = set(actions)
    try:
        ranked = [action for action in dict.fromkeys(rank(request, actions)) if action in known]
    except Exception:
        # An error here would reach the caller at the worst moment.
        _logger.exception("fallback.rank raised; the candidates are shown in the given order")
        ranked = []
    return ranked or list(actions)
