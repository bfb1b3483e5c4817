"""What is shown while the log takes nothing, where the server's file says `on_log_full: fallback`. Pure.

The first eligible candidates, in the caller's own order: nothing is drawn, so nothing is lost to learning, and `logged = false` tells
callers and producers that this slate is no decision.
"""

from bandits.quantise import DENOMINATOR
from protos.events_pb2 import FALLBACK_REASON_LOG_FULL, Slot
from protos.policy_pb2 import SelectResponse
from serving.decide import Asked

__all__ = ["unlogged"]


def unlogged(asked: Asked) -> bytes:
    """A serialised SelectResponse without a decision id."""
    selection = asked.selection
    flags = selection.eligible or [True] * len(selection.candidates.actions)
    shown = [action for action, flag in zip(selection.candidates.actions, flags, strict=True) if flag][: selection.slate_size]
    response = SelectResponse(
        slots=[Slot(action=action, numerator=DENOMINATOR, propensity=1.0) for action in shown],
        joint_propensity=1.0,
        policy="fallback",
        fallback=FALLBACK_REASON_LOG_FULL,
        logged=False,
        request_id=selection.request_id,
    )
    return response.SerializeToString()
