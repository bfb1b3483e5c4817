"""What can go wrong in this room. The same tree on both sides of the wire: the server raises it, the client raises it again.

ServingError
├── RequestRefused           INVALID_ARGUMENT     a field of the request is at fault; `field` is its path
│   ├── NotFound             NOT_FOUND            no such task for this tenant
│   ├── SnapshotNotServed    FAILED_PRECONDITION  the pinned snapshot is not loaded
│   ├── RequestIdReused      ALREADY_EXISTS       the request id belongs to another body
│   └── MoveRefused          FAILED_PRECONDITION  a move of the traffic that the store, or a verdict, does not allow
├── Unauthenticated          UNAUTHENTICATED      no token came, or none that is taken here
├── PermissionDenied         PERMISSION_DENIED    the token does not allow this call
├── Outdated                 ABORTED              another operator moved it since it was read
├── Overloaded               RESOURCE_EXHAUSTED   too many calls at once, a tenant's limit, or a message beyond the limit
├── DeadlineExceeded         DEADLINE_EXCEEDED    the answer would come too late
├── Unavailable              UNAVAILABLE          not now; the same request may be sent again
│   ├── NotReady                                  no snapshot of the task is warm yet
│   └── LogUnavailable                            the log took no record, so nothing was answered
├── ServerFault              INTERNAL             a bug; the message holds an id to look up in the server's log
├── LogBusy                  (at start only)      another process writes this log
└── DemoError                (the demo only)      a part of the demo ended, or did not do its part in time
"""

from typing import ClassVar

__all__ = [
    "DeadlineExceeded",
    "DemoError",
    "LogBusy",
    "LogUnavailable",
    "MoveRefused",
    "NotFound",
    "NotReady",
    "Outdated",
    "Overloaded",
    "PermissionDenied",
    "RequestIdReused",
    "RequestRefused",
    "ServerFault",
    "ServingError",
    "SnapshotNotServed",
    "Unauthenticated",
    "Unavailable",
]


class ServingError(Exception):
    """Root of this room's errors. The message names the field, the value and the remedy; `code` is the gRPC status by name."""

    code: ClassVar[str] = "INTERNAL"
    field: str = ""


class RequestRefused(ServingError):
    """A field of the request is at fault. `field` is its path, e.g. "context.packed"."""

    code = "INVALID_ARGUMENT"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotFound(RequestRefused):
    """The tenant has no such task; the answer is the same where another tenant has one."""

    code = "NOT_FOUND"


class SnapshotNotServed(RequestRefused):
    """The request asks for a snapshot that is not loaded."""

    code = "FAILED_PRECONDITION"


class RequestIdReused(RequestRefused):
    """The request id was used for another body."""

    code = "ALREADY_EXISTS"


class MoveRefused(RequestRefused):
    """The champion, or the traffic, may not be moved so: the verdict does not allow it, or there is nothing to go back to."""

    code = "FAILED_PRECONDITION"


class Unauthenticated(ServingError):
    """No token came, or none that is taken here. What it held is never told."""

    code = "UNAUTHENTICATED"


class PermissionDenied(ServingError):
    """The token is sound and does not allow this call."""

    code = "PERMISSION_DENIED"


class Outdated(ServingError):
    """Another operator moved the pointer or the traffic since it was read: read it again and decide again."""

    code = "ABORTED"


class Overloaded(ServingError):
    """The server sheds load, a tenant is beyond its limit, or a message is larger than it takes.

    `retry_after_s`: when to come again, seconds; None where nobody can tell.
    """

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServingError):
    """The caller's deadline, or the server's cap on waiting, has passed."""

    code = "DEADLINE_EXCEEDED"


class Unavailable(ServingError):
    """The server cannot answer now; the same request, with the same request id, may be sent again."""

    code = "UNAVAILABLE"


class NotReady(Unavailable):
    """No snapshot of the task is warm yet, or the server is draining."""


class LogUnavailable(Unavailable):
    """The log took no record, so nothing is answered: an unlogged decision would be lost to learning."""


class ServerFault(ServingError):
    """A bug in the server. The message holds an error id only; the text stands in the server's log."""

    code = "INTERNAL"


class LogBusy(ServingError):
    """Another process writes this log directory."""


class DemoError(ServingError):
    """A part of the demo ended badly, or did not do its part in time. The message holds the end of its output."""
