"""The two-call form: `decide` gives a Decision, `observe` says what came of it. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from protos.events_pb2 import FALLBACK_REASON_UNSPECIFIED, Event
from protos.policy_pb2 import SelectResponse
from serving import events

__all__ = ["REWARD", "Decision", "Rewards", "happened"]

#: Name of the outcome of a reward that is a mere number.
REWARD = "reward"
# A number is the outcome `reward`; several outcomes go by name; None = none yet.
Rewards = float | Mapping[str, float] | None


class Decision(NamedTuple):
    """What was decided for a unit: hand it to `observe`."""

    task: str
    unit_id: str
    response: SelectResponse

    @property
    def actions(self) -> tuple[str, ...]:
        """Ids of the slate, top first."""
        return tuple(slot.action for slot in self.response.slots)

    @property
    def action(self) -> str:
        """Id of the top slot."""
        return self.response.slots[0].action

    @property
    def propensity(self) -> float:
        """Probability with which the whole slate was drawn, in (0, 1]."""
        return self.response.joint_propensity

    @property
    def propensities(self) -> tuple[float, ...]:
        """Of each slot, given the earlier ones, in (0, 1]."""
        return tuple(slot.propensity for slot in self.response.slots)

    @property
    def is_fallback(self) -> bool:
        """true = not the task's policy decided: the kill switch, a full log, or this client while the server was away."""
        return self.response.fallback != FALLBACK_REASON_UNSPECIFIED

    @property
    def decision_id(self) -> bytes:
        """Sixteen bytes; empty where the server could not log the decision: then there is nothing to observe."""
        return self.response.decision_id


def happened(
    decision: Decision,
    rewards: Rewards,
    *,
    slot: int | None,
    seen: Sequence[tuple[int, str]],
    origin: Callable[[], events.Origin],
) -> list[Event]:
    """The impression of a decision, and a reward for each outcome; `origin` gives each event its id and time."""
    named = {} if rewards is None else rewards if isinstance(rewards, Mapping) else {REWARD: rewards}
    task, unit, name = decision.task, decision.unit_id, decision.decision_id
    return [
        events.impression(task, decision_id=name, unit_id=unit, seen=seen, **origin()),
        *(
            events.reward(task, decision_id=name, unit_id=unit, name=outcome, value=value, slot=slot, **origin())
            for outcome, value in named.items()
        ),
    ]
