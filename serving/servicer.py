"""The calls of the Policy API: message in, domain, bytes out. Nothing is decided here, and nothing knows of a transport."""

from collections.abc import Callable, Sequence

from google.rpc import code_pb2

from protos.events_pb2 import Event
from protos.policy_pb2 import (
    AssignRequest,
    FeedbackRequest,
    FeedbackResponse,
    GetPolicyRequest,
    GetPolicyResponse,
    RequestError,
    SchemaField,
    SelectRequest,
    SelectResult,
)
from serving.alike import Alike
from serving.engine import Answer, Engine
from serving.errors import LogUnavailable, ServingError
from serving.feedback import check_events
from serving.fields import check_id, refused
from serving.gathering import Gathering, Raised, answered_apart
from serving.plain import PlainRequest
from serving.traffic.assign import assignment
from serving.wire import head, length_delimited

__all__ = ["BATCH_REQUESTS", "GATHERED", "Servicer", "result", "results"]

# Unary requests that are decided together, at most: what one compiled batch holds. More in a batch makes none of them cheaper.
GATHERED = 32
# Requests that a SelectBatch may hold, and how many of them may ask for reasons: each of those decides up to 256 rows.
BATCH_REQUESTS, BATCH_EXPLAINED = 1024, 32


class Servicer:
    """The methods of slateloop.v1.PolicyService."""

    def __init__(
        self,
        engine: Engine,
        *,
        append_feedback: Callable[[Sequence[Event]], object],
        now_us: Callable[[], int],
        latest_us: Callable[[], int],
    ) -> None:
        """`now_us` tells the time, and `latest_us` the latest that an event may have now, microseconds since the epoch."""
        self._engine = engine
        self._now_us = now_us
        #: Decode what `select` and `select_batch` take, from bytes.
        self.read, self.read_batch = engine.readers.one, engine.read_batch
        self._gathering: Gathering[SelectRequest | PlainRequest, Answer] = Gathering(engine.answer, most=GATHERED, common=LogUnavailable)
        self._append_feedback = append_feedback
        self._assigning: Gathering[AssignRequest, bytes | Exception] = Gathering(self.assign_all, most=GATHERED, common=LogUnavailable)
        self._latest_us = latest_us

    def select(self, request: SelectRequest | PlainRequest) -> bytes:
        """Decides one slate; a serialised SelectResponse."""
        answer = self._gathering.answer(request)
        if isinstance(answer, ServingError):
            raise answer
        return answer

    def select_all(self, requests: Sequence[SelectRequest | PlainRequest]) -> list[Answer | Exception]:
        """Decides a slate for each of some requests that came together; serialised SelectResponses, or what was raised."""
        made = answered_apart(self._engine.answer, requests, common=LogUnavailable)
        return [outcome.error if isinstance(outcome, Raised) else outcome for outcome in made]

    def select_or_say(self, request: SelectRequest | PlainRequest) -> bytes:
        """Decides one slate of a stream; a serialised SelectResult."""
        return result(self._gathering.answer(request))

    def select_batch(self, requests: Alike | Sequence[SelectRequest | PlainRequest]) -> bytes:
        """Decides many slates; each request is answered or refused by itself. A serialised SelectBatchResponse."""
        if not 1 <= len(requests) <= BATCH_REQUESTS:
            raise refused("requests", f"has {len(requests)} entries; send 1 to {BATCH_REQUESTS} a call")
        if not isinstance(requests, Alike) and sum(isinstance(one, SelectRequest) and one.explain for one in requests) > BATCH_EXPLAINED:
            raise refused("requests", f"more than {BATCH_EXPLAINED} ask for reasons; explain fewer a call")
        answers = self._engine.answer_batch(requests)
        return answers if isinstance(answers, bytes) else results(answers)

    def assign(self, request: AssignRequest) -> bytes:
        """Tells the arm of a unit; one that was drawn is logged as exposure before."""
        answer = self._assigning.answer(request, waits=False)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def assign_all(self, requests: Sequence[AssignRequest]) -> list[bytes | Exception]:
        """Tells the arms of some units whose requests came together; serialised AssignResponses, or what was raised. Their exposures are
        logged before, by one write."""
        made = [self._assigned(request) for request in requests]
        answers = [answer for answer, _ in made]
        drawn = [(place, exposure) for place, (_, exposure) in enumerate(made) if exposure is not None]
        logged = answered_apart(self._append_all, [exposure for _, exposure in drawn], common=LogUnavailable)
        for (place, _), outcome in zip(drawn, logged, strict=True):
            if isinstance(outcome, Raised):
                answers[place] = outcome.error
        return answers

    def _assigned(self, request: AssignRequest) -> tuple[bytes | Exception, Event | None]:
        """The answer, and the exposure that is to be logged before it leaves."""
        try:
            holder = self._engine.holder(tenant=request.tenant, task=request.task)
            check_id(request.unit_id, field="unit_id")
            response, exposure = assignment(request, holder.rules, holder.served, now_us=self._now_us)
        except Exception as error:
            return error, None
        return response.SerializeToString(), exposure

    def _append_all(self, events: Sequence[Event]) -> list[None]:
        self._append_feedback(events)
        return [None] * len(events)

    def feedback(self, request: FeedbackRequest) -> bytes:
        """Takes all events of a call into the feedback log, or none."""
        check_events(request.events, tasks=self._engine.rules, latest_us=self._latest_us())
        self._append_feedback(request.events)
        return FeedbackResponse(accepted=len(request.events)).SerializeToString()

    def get_policy(self, request: GetPolicyRequest) -> bytes:
        """Tells what serves a task, and by which schema it encodes."""
        holder = self._engine.holder(tenant=request.tenant, task=request.task)
        served, rules = holder.served, holder.rules
        return GetPolicyResponse(
            policy=served.deciding.manifest.policy,
            snapshot_digest=served.deciding.digest,
            training_watermark_us=served.deciding.manifest.training_watermark_us,
            config_digest=rules.policy.config_digest,
            schema_digest=rules.schema_digest,
            actions=rules.catalogue.listed.actions if rules.catalogue.listed else (),
            catalogue_version=rules.catalogue.version,
            context_features=[SchemaField(name=item.name, type=item.type, size=item.width) for item in rules.schema.context],
            kill_switch=served.kill_switch,
        ).SerializeToString()


def results(answers: Sequence[Answer]) -> bytes:
    """A serialised SelectBatchResponse."""
    parts: list[bytes] = []
    for answer in answers:
        begun, rest = (head(b"\x0a", len(answer)), answer) if isinstance(answer, bytes) else (b"", result(answer))
        parts += (head(b"\x0a", len(begun) + len(rest)), begun, rest)
    return b"".join(parts)


def result(answer: Answer) -> bytes:
    """A serialised SelectResult."""
    if isinstance(answer, bytes):
        return length_delimited(b"\x0a", answer)
    code = code_pb2.Code.Value(answer.code)
    return SelectResult(error=RequestError(code=code, message=str(answer), field=answer.field)).SerializeToString()
