"""The one place where calls meet grpc: bytes in, bytes out, errors to statuses, and calls that waited too long given up.

The handler sees each call where it arrives, before it waits for a thread, and decodes the message itself: grpc answers garbage with
UNKNOWN, and an interceptor around its own stubs costs a tenth of a decision.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from serving.call_threads import message_arrived
from serving.door.door import Door
from serving.door.tokens import Caller
from serving.errors import DeadlineExceeded, LogUnavailable, Overloaded, RequestRefused, ServerFault, ServingError
from serving.observers import Observer
from serving.tracing import CallSpan

__all__ = ["Arrived", "CallHandler", "Method", "Shortcut", "Stream", "status_of"]

_logger = logging.getLogger(__name__)
# For calls that want to know who calls, where nobody is asked.
_OPEN = Door(tokens=None, limits=None)


class Method(NamedTuple):
    """A call of one message: `decode` makes it of bytes, `answer` gives the bytes of the reply or raises.

    `answer_all`: for calls that a transport brings together, bytes or an error for each.
    """

    decode: Callable[[bytes], Any]
    answer: Callable[[Any], bytes]
    answer_all: Callable[[Sequence[Any]], Sequence[bytes | Exception]] | None = None
    #: In place of `answer`, for calls that want to know who calls.
    answer_as: Callable[[Any, Caller], bytes] | None = None


class Stream(NamedTuple):
    """A call of many messages, each answered in its turn; `refuse` says in the stream why one has no answer."""

    decode: Callable[[bytes], Any]
    answer: Callable[[Any], bytes]
    refuse: Callable[[ServingError], bytes]


class Arrived(NamedTuple):
    """Calls of one method that a transport brings together, as columns.

    `messages` as they came; `waited_s` since each came; `overdue`: places of those whose callers have given up; `metadata` of each, or
    empty where there are no spans.
    """

    messages: Sequence[bytes]
    waited_s: Sequence[float]
    overdue: Sequence[int]
    metadata: Sequence[Mapping[str, str]]


# Answers, from the bytes of some requests, those that it can; None for the others.
Shortcut = Callable[[Sequence[bytes]], Sequence[bytes | None]]


class CallHandler:
    """Serves the methods of one service, by full name ("/package.Service/Method"). A generic RPC handler of grpcio, which asks for
    `service` alone; its base class has no types."""

    def __init__(
        self,
        methods: Mapping[str, Method | Stream],
        *,
        deadline_cap_s: float,
        max_streams: int,
        new_error_id: Callable[[], str],
        observer: Observer | None = None,
        door: Door | None = None,
    ) -> None:
        """`door`: who may come in; None = everyone, and nothing is asked."""
        self._methods, self._door = methods, door
        self._deadline_cap_s = deadline_cap_s
        self._streams_left = threading.Semaphore(max_streams)
        self._new_error_id = new_error_id
        self._observer = observer or Observer()
        #: Is there somebody who keeps spans?
        self.traced = CallSpan.wanted()
        #: Is the metadata of each call asked for?
        self.reads_metadata = self.traced or door is not None

    def service(self, handler_call_details: Any) -> Any:
        """Called where the call arrives, before it waits for a thread."""
        name = handler_call_details.method
        method = self._methods.get(name)
        if method is None:
            return None
        arrived_s = time.monotonic()
        if isinstance(method, Stream):
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._converse(method, name, requests, context))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._answer(method, name, request, context, arrived_s))

    def _answer(self, method: Method, name: str, request: bytes, context: Any, arrived_s: float) -> bytes:
        message_arrived()
        code = "OK"
        span = CallSpan(name, dict(context.invocation_metadata())) if self.traced else None
        try:
            self._check_wait(arrived_s, context)
            if self._door is not None or method.answer_as is not None:
                return self._admitted(method, name, request, context.invocation_metadata())
            return method.answer(_decoded(method.decode, request))
        except Exception as error:
            known = self._known(error, name)
            code = known.code
            return self._abort(context, known)
        finally:
            self._observer.ended(name, code, time.monotonic() - arrived_s)
            if span is not None:
                span.end(code, _number(code))

    def _admitted(self, method: Method, name: str, request: bytes, metadata: Any) -> bytes:
        """Answers a call through the door."""
        door = self._door or _OPEN
        caller = door.enter(name, dict(metadata))
        message = _decoded(method.decode, request)
        with door.within(caller, message):
            return method.answer(message) if method.answer_as is None else method.answer_as(message, caller)

    def answer_all(self, name: str, arrived: Arrived, *, shortcut: Shortcut | None = None) -> list[bytes | ServingError]:
        """Answers calls of one method that a transport brings together, each as it would be by itself.

        `shortcut` answers what it can from the bytes; the rest goes the way of all calls, and so does everything if it fails.
        """
        begun_s = time.monotonic()
        spans = [CallSpan(name, found) for found in arrived.metadata] if self.traced else []
        found = self._answers(name, arrived, shortcut)
        answers = [answer if isinstance(answer, bytes) else self._known(answer, name) for answer in found]
        taken_s = time.monotonic() - begun_s
        codes = ["OK" if isinstance(answer, bytes) else answer.code for answer in answers]
        self._observer.ended_together(name, codes, [waited_s + taken_s for waited_s in arrived.waited_s])
        for span, code in zip(spans, codes, strict=False):
            span.end(code, _number(code))
        return answers

    def _answers(self, name: str, arrived: Arrived, shortcut: Shortcut | None) -> list[bytes | Exception]:
        method = self._methods[name]
        assert isinstance(method, Method) and method.answer_all is not None, f"{name} is not answered together"
        answers: list[bytes | Exception | None] = [None] * len(arrived.messages)
        # What a shortcut answers never becomes a message, whose tenant could be asked for.
        if shortcut is not None and self._door is None and not arrived.overdue and max(arrived.waited_s) <= self._deadline_cap_s:
            answers = [*self._by_shortcut(shortcut, arrived.messages)]
            if None not in answers:
                return cast(list[bytes | Exception], answers)
        requests, places = [], []
        with contextlib.ExitStack() as within:
            for place, message in enumerate(arrived.messages):
                if answers[place] is not None:
                    continue
                try:
                    self._check_waited(arrived.waited_s[place], 0.0 if place in arrived.overdue else None)
                    caller = self._door.enter(name, arrived.metadata[place]) if self._door is not None else None
                    request = _decoded(method.decode, message)
                    if self._door is not None and caller is not None:
                        within.enter_context(self._door.within(caller, request))
                    requests.append(request)
                    places.append(place)
                except Exception as error:
                    answers[place] = error
            for place, answer in zip(places, method.answer_all(requests) if requests else (), strict=True):
                answers[place] = answer
        return cast(list[bytes | Exception], answers)

    def _by_shortcut(self, shortcut: Shortcut, messages: Sequence[bytes]) -> Sequence[bytes | None]:
        try:
            return shortcut(messages)
        except LogUnavailable:
            pass
        except Exception as error:
            _logger.error("a batch of %d is answered call by call", len(messages), exc_info=error)
        return [None] * len(messages)

    def _converse(self, method: Stream, name: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if not self._streams_left.acquire(blocking=False):
            self._abort(context, Overloaded("max_streams: all streams are taken; close one, or use SelectBatch"))
        metadata = dict(context.invocation_metadata()) if self._door is not None else {}
        try:
            for request in requests:
                yield self._turn(method, name, request, metadata)
        finally:
            self._streams_left.release()

    def _turn(self, method: Stream, name: str, request: bytes, metadata: Mapping[str, str]) -> bytes:
        arrived_s, code = time.monotonic(), "OK"
        try:
            if self._door is None:
                return method.answer(_decoded(method.decode, request))
            # Each time: a stream may outlive its token.
            caller = self._door.enter(name, metadata)
            message = _decoded(method.decode, request)
            with self._door.within(caller, message):
                return method.answer(message)
        except Exception as error:
            known = self._known(error, name)
            code = known.code
            return method.refuse(known)
        finally:
            self._observer.ended(name, code, time.monotonic() - arrived_s)

    def _abort(self, context: Any, error: ServingError) -> Any:
        return context.abort_with_status(rpc_status.to_status(status_of(error)))

    def _check_wait(self, arrived_s: float, context: Any) -> None:
        self._check_waited(time.monotonic() - arrived_s, context.time_remaining())

    def _check_waited(self, waited_s: float, left_s: float | None) -> None:
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
    """The error as google.rpc.Status, with the path of the field at fault as BadRequest detail, and RetryInfo where a wait helps."""
    given: list[Any] = []
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        given.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded) and error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        given.append(retry)
    details = [any_pb2.Any() for _ in given]
    for packed, detail in zip(details, given, strict=True):
        packed.Pack(detail)
    return status_pb2.Status(code=_number(error.code), message=str(error), details=details)


def _number(code: str) -> int:
    return int(grpc.StatusCode[code].value[0])


def _decoded(deserializer: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return deserializer(request)
    except DecodeError as error:
        raise RequestRefused(
            f"message: {len(request)} bytes are no such message ({error}); send what protos/policy.proto says", field=""
        ) from error
