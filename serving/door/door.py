"""The door: a call passes with a token for it, for the tenants that it names, and within their limits. Knows no transport."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from protos.policy_pb2 import FeedbackRequest
from protos.task import DEFAULT_TENANT
from serving.alike import Alike
from serving.door.limits import Limits
from serving.door.rights import EVERY_TENANT, check_scope
from serving.door.tokens import Caller, Tokens
from serving.errors import NotFound, Unauthenticated
from serving.fields import shown
from serving.plain import PlainRequest

__all__ = ["ANYONE", "Door"]

#: Who calls where no tokens are asked for.
ANYONE = Caller("anyone", frozenset(), frozenset({EVERY_TENANT}), float("inf"))
_BEARER = "bearer "


class Door:
    """Who may come in. Thread-safe."""

    def __init__(self, *, tokens: Tokens | None, limits: Limits | None) -> None:
        """None = no tokens are asked for; nobody has a limit."""
        self._tokens, self._limits = tokens, limits

    def enter(self, method: str, metadata: Mapping[str, Any]) -> Caller:
        """Who makes a call. Raises Unauthenticated, PermissionDenied."""
        if self._tokens is None:
            return ANYONE
        given = metadata.get("authorization", "")
        if not isinstance(given, str) or not given.lower().startswith(_BEARER):
            raise Unauthenticated("authorization: no token came; send `authorization: Bearer TOKEN` in the call's metadata")
        caller = self._tokens.caller(given[len(_BEARER) :].strip())
        check_scope(method, caller.scopes)
        return caller

    @contextlib.contextmanager
    def within(self, caller: Caller, message: Any) -> Iterator[None]:
        """The time that a call's message is worked on. Raises NotFound for a tenant that is not the caller's, Overloaded."""
        asked = _requests_by_tenant(message)
        if EVERY_TENANT not in caller.tenants and not caller.tenants.issuperset(asked):
            # The words for a task that does not exist: whether another's does is not told.
            raise NotFound(f"task: {shown(_task(message))} does not exist; this tenant has no task here", field="task")
        with contextlib.ExitStack() as held:
            if self._limits is not None:
                for tenant, requests in asked.items():
                    held.enter_context(self._limits.within(tenant, requests))
            yield


def _requests_by_tenant(message: Any) -> Counter[str]:
    """How many requests, or events, a message has of each tenant."""
    if isinstance(message, Alike):
        return Counter({message.first.rules.tenant: len(message)})
    if isinstance(message, FeedbackRequest):
        return Counter(_tenant_of_event(event) for event in message.events)
    if isinstance(message, Sequence) and not isinstance(message, PlainRequest):
        return Counter(_tenant(request) for request in message)
    return Counter([_tenant(message)])


def _tenant(request: Any) -> str:
    return request.selection.rules.tenant if isinstance(request, PlainRequest) else request.tenant or DEFAULT_TENANT


def _tenant_of_event(event: Any) -> str:
    kind = event.WhichOneof("kind")
    # A heartbeat moves the watermark of all tenants: only who speaks for all may send one.
    return EVERY_TENANT if kind == "heartbeat" else getattr(getattr(event, kind or "signal"), "tenant", "") or DEFAULT_TENANT


def _task(message: Any) -> str:
    if isinstance(message, Alike):
        return message.first.rules.name
    first = message[0] if isinstance(message, Sequence) and not isinstance(message, PlainRequest) else message
    if isinstance(first, PlainRequest):
        return first.selection.rules.name
    return getattr(first, "task", "")
