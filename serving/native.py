"""The native front end (`slateloop-front`, Rust) in the place of grpcio's server: the same handlers, the same servicers.

`NativeServer` is to be used as a `grpc.Server` is. Calls of a gathered method come in batches, all that waited while the batches before
were being answered; every other call is run as grpcio would run it, on a pool of threads, with a context of the same shape.
"""

import contextlib
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, Protocol

import grpc
from grpc_status import rpc_status
from prometheus_client.core import HistogramMetricFamily

from serving.calls import Arrived, CallHandler, Shortcut, status_of
from serving.errors import ServingError

__all__ = ["Answer", "FrontStages", "Gathered", "Limits", "NativeServer", "PemFiles", "front", "gathered"]

_logger = logging.getLogger(__name__)
# An answer for the front: bytes, or a status: code, message and trailers.
Answer = bytes | tuple[int, str, list[tuple[str, bytes]]]
_OK = 0
_NO_METADATA: Mapping[str, str] = {}
# How often changed certificates are looked for: they expire in days.
_LOOK_S = 1.0


class Gathered(NamedTuple):
    """A method whose calls are answered together.

    `answer_all(messages, waited_s, overdue, metadata)` gives an answer for each message; `waited_s` since each arrived, `overdue` the
    indices of those whose caller has given up, `metadata` of each where it was asked for, else empty. `most`: calls of a batch.
    """

    name: str
    answer_all: Callable[[list[bytes], list[float], list[int], list[list[tuple[str, bytes]]]], list[Answer]]
    most: int


class PemFiles(Protocol):
    """Files of a server's certificate: chain, key, and authorities of clients or None, as PEM."""

    @property
    def pem(self) -> tuple[bytes, bytes, bytes | None]:
        """As they were read."""

    def changed(self) -> tuple[bytes, bytes, bytes | None] | None:
        """Others than at the last question; None where they are the same, or do not belong together yet."""


class Limits(NamedTuple):
    """What the front refuses: sizes in bytes, calls at once, and a message that takes longer than the cap to come. A connection is closed
    that has had no call for `max_idle_s`, and after `max_age_s` (None: never) once its calls have ended."""

    max_message_bytes: int
    max_concurrent_rpcs: int
    deadline_cap_s: float
    # As grpcio has it.
    max_metadata_bytes: int = 16 << 10
    max_idle_s: float = 900.0
    max_age_s: float | None = None


class _Call(Protocol):
    """A call as the front hands it over; see serving/front/src/bridge.rs."""

    method: str
    metadata: list[tuple[str, bytes]]

    def left_s(self) -> float | None: ...
    def is_active(self) -> bool: ...
    def is_begun(self) -> bool: ...
    def read(self) -> bytes | None: ...
    def write(self, message: bytes, *, wait: bool = True) -> bool: ...
    def finish(self, code: int, message: str, trailers: list[tuple[str, bytes]]) -> None: ...
    def when_ended(self, callback: Callable[[], object]) -> bool: ...


def gathered(handler: CallHandler, name: str, *, most: int, shortcut: Shortcut | None = None) -> Gathered:
    """The calls of one method of ours, answered together by the handler that answers them one by one; see there for `shortcut`."""

    def answer_all(
        messages: list[bytes], waited_s: list[float], overdue: list[int], metadata: list[list[tuple[str, bytes]]]
    ) -> list[Answer]:
        own = [_texts(found) for found in metadata] if handler.reads_metadata else [_NO_METADATA] * len(messages)
        answers = handler.answer_all(name, Arrived(messages, waited_s, overdue, own), shortcut=shortcut)
        return [answer if isinstance(answer, bytes) else _refusal(answer) for answer in answers]

    return Gathered(name, answer_all, most)


def _texts(metadata: Sequence[tuple[str, bytes]]) -> Mapping[str, str]:
    return {key: value for key, value in _plain(metadata) if isinstance(value, str)}


def _refusal(error: ServingError) -> Answer:
    status = rpc_status.to_status(status_of(error))
    return _number(status.code), status.details, list(status.trailing_metadata)


def front() -> Any:
    """The module of the front. Raises ServingError where its distribution is not installed."""
    try:
        import slateloop_front
    except ImportError as error:
        remedy = "pip install 'slateloop[front]' (or `make front` in a checkout), or serve with --front grpcio"
        raise ServingError(f"front: native is not installed here ({error}); {remedy}") from error
    return slateloop_front


@contextlib.contextmanager
def _interrupting_nobody() -> Iterator[None]:
    """A thread that is started within does not take the core from one that runs when it wakes, on Linux, where that may be asked for.

    On a core of its own the I/O thread else interrupts the deciding one at every packet; so it reads together what has come meanwhile
    (measured at 10,000 calls a second: p50 0.60 ms for 0.70, p99 2.4 for 3.2, by turns). It sleeps no longer where a core is idle.
    """
    if not hasattr(os, "SCHED_BATCH"):
        yield
        return
    before = os.sched_getscheduler(0)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, before, os.sched_param(0))


class FrontStages:
    """What Prometheus reads of a front: how long batches took, by stage."""

    def __init__(self, read: Callable[[], Iterable[tuple[str, tuple[list[tuple[float, int]], float]]]]) -> None:
        self._read = read

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """`wait`: of the first call of a batch until it is taken; `answer`: of the batch; `send`: until HTTP/2 has its last answer."""
        family = HistogramMetricFamily("slateloop_front_seconds", "Time of a stage of the native front, for a batch.", labels=["stage"])
        for stage, (buckets, total_s) in self._read():
            bounds = [("+Inf" if math.isinf(bound) else f"{bound:g}", float(count)) for bound, count in buckets]
            family.add_metric([stage], bounds, total_s)
        yield family


class NativeServer:
    """What `grpc.Server` offers, as far as this room uses it."""

    def __init__(
        self,
        pool: Executor,
        *,
        handlers: Sequence[grpc.GenericRpcHandler],
        gathered: Sequence[Gathered],
        limits: Limits,
        with_metadata: bool = False,
        shares_port: bool = False,
    ) -> None:
        """`handlers` are asked in turn for each call; the methods of `gathered` are answered apart from them, with the metadata of their
        calls if `with_metadata`. Raises ServingError without the front."""
        self._pool, self._handlers, self._gathered, self._shares_port = pool, list(handlers), list(gathered), shares_port
        self._stopping = threading.Event()
        about: dict[str, Any] = {"gathered": [(found.name, found.most) for found in gathered], "with_metadata": with_metadata}
        self._front = front().Front(**about, **limits._asdict())
        #: For the registry of a server's metrics.
        self.stages = FrontStages(self._front.stages)
        self._thread = threading.Thread(target=self._run, name="native", daemon=True)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """More handlers, asked after those before."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """Nothing: grpcio's generated code gives the same handlers to `add_generic_rpc_handlers`."""

    def add_insecure_port(self, address: str) -> int:
        """Listens at an address and returns the port. Raises RuntimeError where it can't be bound."""
        return int(self._front.bind(address, shares_port=self._shares_port))

    def add_secure_port(self, address: str, files: PemFiles) -> int:
        """As `add_insecure_port`, with TLS and, where authorities are named, client certificates. Files that change are taken by new
        connections within a second. Raises ValueError for PEM that does not belong together."""
        port = int(self._front.bind(address, shares_port=self._shares_port, tls=tuple(files.pem)))
        threading.Thread(target=self._follow, args=(files,), name="certificates", daemon=True).start()
        return port

    def _follow(self, files: PemFiles) -> None:
        while not self._stopping.wait(_LOOK_S):
            self.look(files)

    def look(self, files: PemFiles) -> None:
        """One look at the files: new connections are encrypted by what they hold. What cannot be used changes nothing."""
        try:
            changed = files.changed()
            if changed is not None:
                self._front.renew(tuple(changed))
        except Exception as error:
            _logger.error("tls: the certificate before stays in use", exc_info=error)

    def start(self) -> None:
        """Answers, until `stop`."""
        self._thread.start()
        with _interrupting_nobody():
            self._front.start()

    def stop(self, grace: float | None) -> threading.Event:
        """Takes no more connections and gives running calls `grace` seconds. The event is set when all is closed."""
        self._stopping.set()
        stopped = threading.Event()
        threading.Thread(target=self._stop, args=(grace or 0.0, stopped), name="native-stop", daemon=True).start()
        return stopped

    def _run(self) -> None:
        self._front.run([found.answer_all for found in self._gathered], self._begin)
        if not self._stopping.is_set():
            _logger.critical("the native front has ended by itself: nothing is answered any more; start this server again")

    def _stop(self, grace_s: float, stopped: threading.Event) -> None:
        self._front.stop(grace_s)
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=False)
        stopped.set()

    def _begin(self, call: _Call) -> None:
        """Takes a call that is not gathered. Called by the thread that answers the gathered ones, so nothing here waits."""
        details = _Details(call.method, call.metadata)
        handler = next((found for handlers in self._handlers if (found := handlers.service(details)) is not None), None)
        if handler is None:
            call.finish(_number(grpc.StatusCode.UNIMPLEMENTED), "Method not found!", [])
        else:
            self._pool.submit(_run, handler, call)


class _Details(NamedTuple):
    """grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: Sequence[tuple[str, Any]]


class _Aborted(Exception):
    """Ends a handler whose status stands in the context."""


class _Context:
    """grpc.ServicerContext, as far as handlers of this room, health and reflection use it."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self.status: tuple[grpc.StatusCode, str] = (grpc.StatusCode.OK, "")
        self.trailers: list[tuple[str, bytes]] = []

    def is_active(self) -> bool:
        return self._call.is_active()

    def time_remaining(self) -> float | None:
        return self._call.left_s()

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return _plain(self._call.metadata)

    def add_callback(self, callback: Callable[[], object]) -> bool:
        return self._call.when_ended(callback)

    def set_code(self, code: grpc.StatusCode) -> None:
        self.status = (code, self.status[1])

    def set_details(self, details: str) -> None:
        self.status = (self.status[0], details)

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self.trailers = [(name, value.encode() if isinstance(value, str) else value) for name, value in metadata]

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.status = (code, details)
        raise _Aborted

    def abort_with_status(self, status: grpc.Status) -> None:
        self.set_trailing_metadata(status.trailing_metadata)
        self.abort(status.code, status.details)


def _run(handler: Any, call: _Call) -> None:
    """Runs the handler of a call to its end, whatever it raises."""
    context = _Context(call)
    try:
        if getattr(handler.unary_stream, "experimental_non_blocking", False):
            _watch(handler, call, context)
            return
        _converse(handler, call, context)
    except _Aborted:
        pass
    except Exception as error:
        # What our own servicers raise is known before it comes here; this is another's handler, or a bug of the front.
        code = context.status[0] if context.status[0] is not grpc.StatusCode.OK else grpc.StatusCode.UNKNOWN
        context.status = (code, context.status[1] or "the call's handler failed; what it said stands in the server's log")
        if code is grpc.StatusCode.UNKNOWN:
            _logger.error("the handler of %s failed", call.method, exc_info=error)
    code, details = context.status
    call.finish(_number(code), details, context.trailers)


def _converse(handler: Any, call: _Call, context: _Context) -> None:
    decode, encode = handler.request_deserializer or bytes, handler.response_serializer or bytes
    request = _requests(call, decode) if handler.request_streaming else decode(_only_message(call, context))
    if not handler.response_streaming:
        behave = handler.stream_unary if handler.request_streaming else handler.unary_unary
        call.write(encode(behave(request, context)))
        return
    behave = handler.stream_stream if handler.request_streaming else handler.unary_stream
    for response in behave(request, context):
        if not call.write(encode(response)):
            return


def _only_message(call: _Call, context: _Context) -> bytes:
    if not call.is_begun():
        # We hear of a call with its first message, or when that is late; a thread that waits for it would be lost to others.
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "message: has not come within deadline_cap_s; send it whole")
    message = call.read()
    if message is None:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "message: none came; send one")
    return message or b""


def _requests(call: _Call, decode: Callable[[bytes], Any]) -> Iterator[Any]:
    while (message := call.read()) is not None:
        yield decode(message)


def _watch(handler: Any, call: _Call, context: _Context) -> None:
    """A handler that calls back instead of keeping a thread: health's Watch. Its caller ends the call."""

    def send(response: Any) -> None:
        if response is None:
            call.finish(_OK, "", [])
        else:
            call.write(handler.response_serializer(response), wait=False)

    handler.unary_stream(handler.request_deserializer(_only_message(call, context)), context, send)


def _plain(metadata: Sequence[tuple[str, bytes]]) -> list[tuple[str, str | bytes]]:
    """Metadata as grpcio has it: bytes where a name says so, else text."""
    return [(name, value if name.endswith("-bin") else value.decode("utf-8", "replace")) for name, value in metadata]


def _number(code: grpc.StatusCode) -> int:
    return int(code.value[0])
