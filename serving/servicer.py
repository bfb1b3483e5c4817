"""The five calls of the Policy API: message in, domain, message out. Nothing is decided here."""

from collections.abc import Callable, Sequence

import grpc

from protos.events_pb2 import Event
from protos.policy_pb2 import (
    AssignRequest,
    AssignResponse,
    FeedbackRequest,
    FeedbackResponse,
    GetPolicyRequest,
    GetPolicyResponse,
    RequestError,
    SchemaField,
    SelectBatchRequest,
    SelectBatchResponse,
    SelectRequest,
    SelectResponse,
    SelectResult,
)
from serving.engine import Answer, Engine
from serving.errors import ServingError
from serving.feedback import check_events
from serving.fields import check_id, refused

__all__ = ["BATCH_REQUESTS", "Servicer"]

# Requests that a SelectBatch may hold.
BATCH_REQUESTS = 1024


class Servicer:
    """The methods of slateloop.v1.PolicyService."""

    def __init__(self, engine: Engine, *, append_feedback: Callable[[Sequence[Event]], object], latest_us: Callable[[], int]) -> None:
        """`latest_us` tells the latest time that an event may have now, microseconds since the epoch."""
        self._engine = engine
        self._append_feedback = append_feedback
        self._latest_us = latest_us

    def Select(self, request: SelectRequest, context: grpc.ServicerContext) -> SelectResponse:  # noqa: N802
        """Decides one slate."""
        answer = self._engine.select([request])[0]
        if isinstance(answer, ServingError):
            raise answer
        return answer

    def SelectBatch(self, request: SelectBatchRequest, context: grpc.ServicerContext) -> SelectBatchResponse:  # noqa: N802
        """Decides many slates; each request is answered or refused by itself."""
        if not 1 <= len(request.requests) <= BATCH_REQUESTS:
            raise refused("requests", f"has {len(request.requests)} entries; send 1 to {BATCH_REQUESTS} a call")
        return SelectBatchResponse(results=map(_result, self._engine.select(request.requests)))

    def Assign(self, request: AssignRequest, context: grpc.ServicerContext) -> AssignResponse:  # noqa: N802
        """Tells the arm of a unit."""
        holder = self._engine.holder(tenant=request.tenant, task=request.task)
        check_id(request.unit_id, field="unit_id")
        policy, (arm, probability) = holder.served.assigned(task=holder.rules.name, unit_id=request.unit_id)
        return AssignResponse(arm=arm, arm_probability=probability, policy=policy.manifest.policy, snapshot_digest=policy.digest)

    def Feedback(self, request: FeedbackRequest, context: grpc.ServicerContext) -> FeedbackResponse:  # noqa: N802
        """Takes all events of a call into the feedback log, or none."""
        check_events(request.events, tasks=self._engine.rules, latest_us=self._latest_us())
        self._append_feedback(request.events)
        return FeedbackResponse(accepted=len(request.events))

    def GetPolicy(self, request: GetPolicyRequest, context: grpc.ServicerContext) -> GetPolicyResponse:  # noqa: N802
        """Tells what serves a task, and by which schema it encodes."""
        holder = self._engine.holder(tenant=request.tenant, task=request.task)
        served, rules = holder.served, holder.rules
        return GetPolicyResponse(
            policy=served.deciding.manifest.policy,
            snapshot_digest=served.deciding.digest,
            training_watermark_us=served.deciding.manifest.training_watermark_us,
            config_digest=rules.policy.config_digest,
            schema_digest=rules.schema_digest,
            actions=rules.catalogue,
            context_features=[SchemaField(name=item.name, type=item.type, size=item.width) for item in rules.schema.context],
            kill_switch=served.kill_switch,
        )


def _result(answer: Answer) -> SelectResult:
    if not isinstance(answer, ServingError):
        return SelectResult(response=answer)
    code = grpc.StatusCode[answer.code].value[0]
    return SelectResult(error=RequestError(code=code, message=str(answer), field=answer.field))
