"""A client of the Policy API. Retries what was not answered, under the same request id: so a retry is the same decision."""

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from protos.events_pb2 import CandidateSet, Event
from protos.policy_pb2 import (
    AssignRequest,
    AssignResponse,
    Context,
    FeatureValue,
    FeedbackRequest,
    GetPolicyRequest,
    GetPolicyResponse,
    NumberList,
    SelectBatchRequest,
    SelectRequest,
    SelectResponse,
    SelectResult,
)
from protos.policy_pb2_grpc import PolicyServiceStub
from protos.task import DEFAULT_TENANT
from serving import events
from serving.errors import (
    DeadlineExceeded,
    NotFound,
    Outdated,
    Overloaded,
    PermissionDenied,
    RequestIdReused,
    RequestRefused,
    ServerFault,
    ServingError,
    SnapshotNotServed,
    Unauthenticated,
    Unavailable,
)

__all__ = ["PolicyClient", "error_of"]

# A context as an encoded vector f32[d], or as named features.
ContextInput = np.ndarray | Mapping[str, float | bool | str | Sequence[float]]

_REFUSALS = {item.code: item for item in (RequestRefused, NotFound, SnapshotNotServed, RequestIdReused)}
_KINDS: tuple[type[ServingError], ...] = (
    Overloaded,
    DeadlineExceeded,
    Unavailable,
    ServerFault,
    Unauthenticated,
    PermissionDenied,
    Outdated,
)
_FAILURES = {item.code: item for item in _KINDS} | {"CANCELLED": Unavailable}
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "slateloop.v1.PolicyService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                # CANCELLED, by a server that began to drain while the call was on its way: nothing was decided.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ]
}


class PolicyClient:
    """Calls one server. Thread-safe; use it as a context manager or `close` it.

    Every call raises the tree of serving.errors: RequestRefused and its kin for a request at fault, Unavailable when retries were in
    vain, DeadlineExceeded after `timeout_s`, Overloaded, ServerFault.
    """

    def __init__(self, address: str, *, timeout_s: float = 5.0, tenant: str = DEFAULT_TENANT) -> None:
        """`address`: host:port. `timeout_s`: deadline of each call, retries included, seconds."""
        # A connection of its own: what shares a connection reaches one worker of the server, and no other.
        alone = ("grpc.use_local_subchannel_pool", 1)
        options = [("grpc.service_config", json.dumps(_SERVICE_CONFIG)), ("grpc.enable_retries", 1), alone]
        self._channel = grpc.insecure_channel(address, options=options)
        self._stub: Any = PolicyServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._address = address
        self._timeout_s = timeout_s
        self._tenant = tenant
        self._schema_digests: dict[str, str] = {}

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def request(
        self,
        task: str,
        *,
        unit_id: str,
        context: ContextInput,
        candidates: Sequence[str] = (),
        slate_size: int | None = None,
        request_id: str = "",
        explain: bool = False,
    ) -> SelectRequest:
        """A request for `select_batch`.

        `context`: encoded vector f32[d], or named features; `candidates`: ids, empty = the task's catalogue; `slate_size`: None = the
        task's own; `request_id`: drawn at random where empty.
        """
        return SelectRequest(
            tenant=self._tenant,
            task=task,
            unit_id=unit_id,
            request_id=request_id,
            context=self._context(task, context),
            candidates=CandidateSet(actions=candidates) if candidates else None,
            slate_size=slate_size,
            explain=explain,
        )

    def select(self, task: str, *, unit_id: str, context: ContextInput, **options: Any) -> SelectResponse:
        """One slate; the options are those of `request`."""
        return self.send_select(self.request(task, unit_id=unit_id, context=context, **options))

    def select_batch(self, requests: Sequence[SelectRequest]) -> list[SelectResponse | ServingError]:
        """A slate, or the error of that request alone, for each request in order."""
        return [_outcome(item) for item in self.send_select_batch(requests)]

    def select_stream(self, requests: Iterable[SelectRequest]) -> Iterator[SelectResponse | ServingError]:
        """As `select_batch`, for as long as requests come; each is answered in its turn, on a thread of the server that is kept for it."""
        try:
            for item in self._stub.SelectStream(map(_named, requests)):
                yield _outcome(item)
        except grpc.RpcError as error:
            raise error_of(error, address=self._address) from error

    def assign(self, task: str, *, unit_id: str) -> AssignResponse:
        """The arm of a unit."""
        return self._call("Assign", AssignRequest(tenant=self._tenant, task=task, unit_id=unit_id))

    def policy(self, task: str) -> GetPolicyResponse:
        """What serves a task now."""
        return self._call("GetPolicy", GetPolicyRequest(tenant=self._tenant, task=task))

    def impression(self, task: str, *, decision_id: bytes, unit_id: str, seen: Sequence[tuple[int, str]] = ()) -> None:
        """Slots of a decision were seen just now: (slot, action) pairs, empty = the whole slate."""
        self.send_feedback([events.impression(task, decision_id=decision_id, unit_id=unit_id, seen=seen, **self._origin())])

    def reward(self, task: str, *, decision_id: bytes, unit_id: str, name: str, value: float, slot: int | None = None) -> None:
        """A named outcome of a slot, or (None) of the whole slate, happened just now."""
        event = events.reward(task, decision_id=decision_id, unit_id=unit_id, name=name, value=value, slot=slot, **self._origin())
        self.send_feedback([event])

    def signal(self, *, unit_id: str, name: str, value: float | None = None) -> None:
        """Something else happened to a unit just now; no value = it happened."""
        self.send_feedback([events.signal(unit_id=unit_id, name=name, value=value, **self._origin())])

    def heartbeat(self, source: str, *, event_time_us: int, final: bool = False, partition: int = 0) -> None:
        """Everything of `source` before the time has been sent."""
        self.send_feedback([events.heartbeat(source, event_time_us=event_time_us, final=final, partition=partition)])

    def send_select(self, request: SelectRequest) -> SelectResponse:
        """One slate for a message of your own; a request id is drawn where it has none."""
        return self._call("Select", _named(request))

    def send_select_batch(self, requests: Sequence[SelectRequest]) -> Sequence[SelectResult]:
        """A result for each message, in order."""
        return self._call("SelectBatch", SelectBatchRequest(requests=map(_named, requests))).results

    def send_feedback(self, batch: Iterable[Event]) -> int:
        """Sends events (serving.events builds them) and returns how many stand in the log: all of them."""
        return int(self._call("Feedback", FeedbackRequest(events=batch)).accepted)

    def _origin(self) -> events.Origin:
        return events.Origin(event_id=secrets.token_hex(16), event_time_us=time.time_ns() // 1000, tenant=self._tenant)

    def _call(self, method: str, message: Any) -> Any:
        try:
            return getattr(self._stub, method)(message, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, address=self._address) from error

    def _context(self, task: str, context: ContextInput) -> Context:
        if isinstance(context, Mapping):
            return Context(features={name: _feature(value) for name, value in context.items()})
        if task not in self._schema_digests:
            self._schema_digests[task] = self.policy(task).schema_digest
        return Context(packed=np.asarray(context, dtype="<f4").tobytes(), schema_digest=self._schema_digests[task])


def error_of(error: Any, *, address: str) -> ServingError:
    """A failed call (grpc.RpcError) to `address` as an error of this room."""
    code, details, status = error.code().name, error.details() or "", rpc_status.from_call(error)
    if status is not None:
        return _error(code, details, _field(status))
    # No status of ours: the call did not reach a server, or grpc itself ended it.
    if code == Unavailable.code:
        details = f"address: {address} cannot be reached ({details}); start `serving serve`, or give the address it prints"
    elif code == DeadlineExceeded.code:
        details = f"timeout_s: {address} gave no answer in time; give it longer, or ask it for less at once"
    return _error(code, details, "")


def _named(request: SelectRequest) -> SelectRequest:
    """The request with a request id: every attempt carries the same one."""
    if request.request_id:
        return request
    named = SelectRequest(request_id=secrets.token_hex(16))
    named.MergeFrom(request)
    return named


def _outcome(item: SelectResult) -> SelectResponse | ServingError:
    if item.HasField("response"):
        return item.response
    return _error(_code_name(item.error.code), item.error.message, item.error.field)


def _error(code: str, message: str, field: str) -> ServingError:
    if code in _REFUSALS:
        return _REFUSALS[code](message, field=field)
    return _FAILURES.get(code, ServerFault)(message)


def _field(status: Any) -> str:
    for detail in status.details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            return str(request.field_violations[0].field)
    return ""


def _code_name(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


def _feature(value: float | bool | str | Sequence[float]) -> FeatureValue:
    if isinstance(value, bool):
        return FeatureValue(flag=value)
    if isinstance(value, str):
        return FeatureValue(category=value)
    if isinstance(value, int | float | np.number):
        return FeatureValue(number=float(value))
    return FeatureValue(numbers=NumberList(values=[float(number) for number in value]))
