"""The one place where errors become gRPC statuses, and where a call that waited too long is given up."""

import logging
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from serving.errors import DeadlineExceeded, RequestRefused, ServerFault, ServingError

__all__ = ["ErrorInterceptor", "status_of"]

_logger = logging.getLogger(__name__)


class ErrorInterceptor:
    """Wraps every unary method: decodes the message itself, since grpc answers garbage with UNKNOWN, and maps what is raised."""

    def __init__(self, *, deadline_cap_s: float, new_error_id: Callable[[], str]) -> None:
        self._deadline_cap_s = deadline_cap_s
        self._new_error_id = new_error_id

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Called where the call arrives, before it waits for a thread."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        arrived_s = time.monotonic()

        def answer(request: bytes, context: Any) -> Any:
            try:
                self._check_wait(arrived_s, context)
                return handler.unary_unary(_decoded(handler.request_deserializer, request), context)
            except Exception as error:
                status = status_of(self._known(error, handler_call_details.method))
            return context.abort_with_status(rpc_status.to_status(status))

        return grpc.unary_unary_rpc_method_handler(answer, response_serializer=handler.response_serializer)

    def _check_wait(self, arrived_s: float, context: Any) -> None:
        waited_s = time.monotonic() - arrived_s
        left_s = context.time_remaining()
        if waited_s > self._deadline_cap_s or (left_s is not None and left_s <= 0.0):
            raise DeadlineExceeded(f"the call waited {waited_s:.3f} s (deadline_cap_s is {self._deadline_cap_s}); send fewer at once")

    def _known(self, error: Exception, method: str) -> ServingError:
        """The error, if the caller may see it; of a bug, an id to look up."""
        if isinstance(error, ServingError):
            return error
        error_id = self._new_error_id()
        _logger.error("error %s in %s", error_id, method, exc_info=error)
        return ServerFault(f"internal error {error_id}; quote this id to those who run the server")


def status_of(error: ServingError) -> status_pb2.Status:
    """The error as google.rpc.Status, with the path of the field at fault as BadRequest detail."""
    details = []
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        details.append(packed)
    return status_pb2.Status(code=grpc.StatusCode[error.code].value[0], message=str(error), details=details)


def _decoded(deserializer: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return deserializer(request)
    except DecodeError as error:
        raise RequestRefused(
            f"message: {len(request)} bytes are no such message ({error}); send what protos/policy.proto says", field=""
        ) from error
