"""The arm of a unit without a slate, and the event that says that the unit was told it."""

import hashlib
from collections.abc import Callable

from bandits.traffic import Assignment
from protos.events_pb2 import Event, Signal
from protos.policy_pb2 import AssignRequest, AssignResponse
from serving.candidates import candidate_list
from serving.snapshots import WHOLE, Served
from serving.tasks import TaskRules
from serving.traffic.beside import Beside
from serving.validate import Selection, encoded_context

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
    selection = _selection(request, rules)
    if beside.units is not None:
        selection = beside.units.filled(selection)
    policy, (arm, probability), placed = beside.decider(selection, served)
    response = AssignResponse(arm=arm, arm_probability=probability, policy=policy.manifest.policy, snapshot_digest=policy.digest)
    if placed is not None:
        response.arm_source = placed.source  # type: ignore[assignment]
        response.ineligible_for.extend(placed.ineligible_for)
    return response


def _selection(request: AssignRequest, rules: TaskRules) -> Selection:
    """As much of a selection as an arm depends on."""
    context, defaulted = encoded_context(request.context, rules) if request.HasField("context") else rules.default_context
    return Selection(
        rules=rules,
        unit_id=request.unit_id,
        request_id="",
        context=context,
        defaulted=defaulted,
        candidates=candidate_list(()),
        eligible=[],
        features=b"",
        scores=[],
        slate_size=0,
        explain=False,
        parent_decision_id=b"",
        pinned="",
        sticky_arm=request.sticky_arm,
    )


def _exposure(response: AssignResponse, unit_id: str, rules: TaskRules, time_us: int) -> Event:
    """A signal of the unit: its value is the arm's probability. The id follows from what it says, so the same exposure is one event."""
    name = f"{EXPOSURE}:{rules.name}:{response.arm}"
    said = "\0".join((rules.tenant, name, unit_id, str(time_us)))
    event_id = f"{EXPOSURE}-{hashlib.blake2b(said.encode(), digest_size=16).hexdigest()}"
    # A signal's name has a limit; of a task with a very long name the end tells arms apart.
    kept = name if len(name.encode()) <= _NAME_BYTES else name.encode()[-_NAME_BYTES:].decode(errors="ignore")
    signal = Signal(
        event_id=event_id, tenant=rules.tenant, unit_id=unit_id, event_time_us=time_us, name=kept, value=response.arm_probability
    )
    return Event(signal=signal)
