"""From a failed call to an error of this room, and which errors mean that the server is away. Pure but for grpc's own types."""

from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from protos.policy_pb2 import SelectResponse, SelectResult
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

__all__ = ["AWAY", "error_of", "outcome"]

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
#: The server gave no answer, and the request is not at fault: what a client does without one. A refusal is the caller's to mend.
AWAY = (Unavailable, DeadlineExceeded, Overloaded, ServerFault)


def error_of(error: Any, *, address: str) -> ServingError:
    """A failed call (grpc.RpcError, of either kind of channel) to `address` as an error of this room."""
    code, details, status = error.code().name, error.details() or "", rpc_status.from_call(error)
    if status is not None:
        return _error(code, details, _field(status))
    # No status of ours: the call did not reach a server, or grpc itself ended it.
    if code == Unavailable.code:
        details = f"address: {address} cannot be reached ({details}); start `serving serve`, or give the address it prints"
    elif code == DeadlineExceeded.code:
        details = f"timeout_s: {address} gave no answer in time; give it longer, or ask it for less at once"
    return _error(code, details, "")


def outcome(item: SelectResult) -> SelectResponse | ServingError:
    """The answer of one request of a batch, or the error of that request alone."""
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
