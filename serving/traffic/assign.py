"""The arm of a unit without a slate, and the event that says that the unit was told it."""

import hashlib
from collections.abc import Callable

from bandits.traffic import Assignment
from protos.events_pb2 import Event
from protos.policy_pb2 import AssignRequest, AssignResponse
from serving.snapshots import WHOLE, Served
from serving.tasks import TaskRules
from serving.traffic.beside import Beside
from serving.validate import Unit, encoded_context

__all__ = ["EXPOSURE", "assignment"]

#: The signal of an exposure is named so, with task and arm behind it.
EXPOSURE = "exposure"
_NAME_BYTES = 128


def assignment(
    request: AssignRequest, rules: TaskRules, served: Served, *, now_us: Callable[[], int]
) -> tuple[AssignResponse, Event | None]:
    """The answer, and the exposure of an arm that was drawn (or kept, or given); None where there is but one arm.

    Raises RequestRefused for a context that the task's schema refuses.
    """
    response = _assigned(request, rules, served)
    if Assignment(response.arm, response.arm_probability) == WHOLE and not response.arm_source:
        return response, None
    response.exposed = True
    return response, _exposure(response, request.unit_id, rules, now_us())


def _assigned(request: AssignRequest, rules: TaskRules, served: Served) -> AssignResponse:
    beside: Beside | None = served.beside
    if beside is None:
        policy, (arm, probability) = served.assigned(task=rules.name, unit_id=request.unit_id)
        return AssignResponse(arm=arm, arm_probability=probability, policy=policy.manifest.policy, snapshot_digest=policy.digest)
    context, defaulted = encoded_context(request.context, rules) if request.HasField("context") else rules.default_context
    unit = Unit(rules, request.unit_id, context, defaulted, request.sticky_arm)
    if beside.units is not None:
        unit = beside.units.filled(unit)
    policy, (arm, probability), placed = beside.decider(unit, served)
    response = AssignResponse(arm=arm, arm_probability=probability, policy=policy.manifest.policy, snapshot_digest=policy.digest)
    if placed is not None:
        response.arm_source = placed.source
        response.ineligible_for.extend(placed.ineligible_for)
    return response


def _exposure(response: AssignResponse, unit_id: str, rules: TaskRules, time_us: int) -> Event:
    """A signal of the unit: its value is the arm's probability. The id follows from what it says, so the same exposure is one event."""
    name = f"{EXPOSURE}:{rules.name}:{response.arm}"
    said = "\0".join((rules.tenant, name, unit_id, str(time_us)))
    event_id = f"{EXPOSURE}-{hashlib.blake2b(said.encode(), digest_size=16).hexdigest()}"
    # A signal's name has a limit; of a task with a very long name the end tells arms apart.
    kept = name if len(name.encode()) <= _NAME_BYTES else name.encode()[-_NAME_BYTES:].decode(errors="ignore")
    event = Event()
    signal = event.signal
    signal.event_id, signal.tenant, signal.unit_id, signal.event_time_us = event_id, rules.tenant, unit_id, time_us
    signal.name, signal.value = kept, response.arm_probability
    return event
