"""Requests as most callers send them, read straight from their bytes into selections; whatever is not plain is left to protobuf.

Plain is a Select for a task that is here, serialised as protobuf's own libraries do (each field once, in the order of its number, in as
few bytes as it takes), of a unit, an optional request id, a packed context with its schema's digest, candidates with packed features or
none (or the task's own catalogue), and an optional slate size. The reader compares with what such bytes must be, and takes nothing that
protobuf and `validate` would read otherwise or refuse: a test reads both ways and compares. A message object costs more than all of this.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

from protos.policy_pb2 import SelectBatchRequest, SelectRequest
from protos.task import DEFAULT_TENANT
from serving.candidates import KEPT_LENGTH, KEPT_LISTS, CandidateList, candidate_list
from serving.errors import RequestRefused
from serving.tasks import TaskKey, TaskRules
from serving.validate import Selection
from serving.wire import length_delimited, varint

__all__ = ["PlainReader", "PlainReaders", "PlainRequest", "Span", "around_context", "first_span", "listed_of", "spans", "task_heads"]

_TENANT, _TASK, _UNIT, _REQUEST_ID, _CANDIDATES, _SLATE_SIZE = b"\x0a", b"\x12", 0x1A, 0x22, 0x32, 0x40
_ACTION, _PACKED_FEATURES = 0x0A, b"\x22"
# Texts of more bytes have a longer length; they are left to protobuf, and so are slate sizes.
_ONE_BYTE = 128
_NEVER = 1 << 28
_ALL: list[bool] = []
_NO_SCORES: list[float] = []


class PlainRequest(NamedTuple):
    """A request that was read as plain. `body`: its bytes, where the caller gave it a request id; else empty."""

    selection: Selection
    body: bytes


class Span(NamedTuple):
    """Bytes [start, end) of one request in a batch."""

    start: int
    end: int


class _Known(NamedTuple):
    """Candidates that were read before: how a CandidateSet of them begins up to its features, whose length is known, and all its bytes."""

    listed: CandidateList
    head: bytes
    features: int
    size: int


class HasRules(Protocol):
    """Who holds the rules of a task, which change with its catalogue."""

    @property
    def rules(self) -> TaskRules:
        """As they are now."""


class PlainReader:
    """Reads the requests of one task, as its rules are now. Thread-safe."""

    def __init__(self, rules: TaskRules) -> None:
        self.rules = rules
        self._before_context, self._behind_context = around_context(rules)
        self._context_bytes = 4 * rules.context_size
        self._default_size = rules.policy.section.slate_size
        # A size of 128 or more has a second byte.
        self._most_slots = min(rules.limits.max_slots, _ONE_BYTE - 1)
        self._most_candidates = rules.limits.max_candidates
        own = rules.catalogue.listed
        self._own = None if own is None else (own, rules.catalogue.features(own.actions))
        self._known: dict[bytes, _Known] = {}
        self._last: _Known | None = None

    def read(self, data: bytes, span: Span, at: int, new_request_id: Callable[[], str]) -> PlainRequest | None:
        """The request in `span`, whose unit begins at `at`; None if it is not plain. Raises IndexError or UnicodeDecodeError for some
        that are not."""
        begin, end = span
        packed = self._context_bytes
        if not packed or data[at] != _UNIT:
            return None
        unit_id, at = _text(data, at)
        request_id, at = _text(data, at) if data[at] == _REQUEST_ID else ("", at)
        start = at + len(self._before_context)
        stop = start + packed
        if not (data.startswith(self._before_context, at) and data.startswith(self._behind_context, stop)):
            return None
        at = stop + len(self._behind_context)
        if at < end and data[at] == _CANDIDATES:
            length, at = _varint(data, at + 1)
            found, at = self._candidates(data, at, at + length), at + length
        else:
            found = self._own
        size = self._default_size
        if at < end and data[at] == _SLATE_SIZE:
            size, at = data[at + 1], at + 2
        if found is None or at != end:
            return None
        listed, features = found
        if not 0 < size <= self._most_slots or not size <= len(listed.actions) <= self._most_candidates:
            return None
        drawn = request_id or new_request_id()
        # By place: names would cost as much as the checks.
        selection = Selection(self.rules, unit_id, drawn, data[start:stop], (), listed, _ALL, features, _NO_SCORES, size, False, b"", "")
        return PlainRequest(selection, data[begin:end] if request_id else b"")

    def numbers(self, data: bytes, at: int, end: int) -> tuple[Span, Span]:
        """Where the numbers of the context and of the candidates (nowhere, if it gives none) lie in a request that was read as plain;
        its context field begins at `at`, and it ends at `end`."""
        start = at + len(self._before_context)
        context = Span(start, start + self._context_bytes)
        at = context.end + len(self._behind_context)
        if at == end or data[at] != _CANDIDATES:
            return context, Span(end, end)
        length, at = _varint(data, at + 1)
        end, names = at + length, at
        while names < end and data[names] == _ACTION:
            names = _behind_text(data, names)
        return context, Span(_varint(data, names + 1)[1] if names < end else end, end)

    def _candidates(self, data: bytes, at: int, end: int) -> tuple[CandidateList, bytes] | None:
        """The candidates of a CandidateSet in [at, end), and their features."""
        known = self._last
        if known is None or known.size != end - at or not data.startswith(known.head, at):
            known = self._last = self._look_up(data, at, end)
        if known is None:
            return None
        return known.listed, data[end - known.features : end] if known.features else self.rules.default_features * len(known.listed.actions)

    def _look_up(self, data: bytes, at: int, end: int) -> _Known | None:
        stop = at
        while stop < end and data[stop] == _ACTION:
            stop = _behind_text(data, stop)
        key = data[at : stop + 1] if stop < end else data[at:stop]
        known = self._known.get(key)
        if known is None:
            listed = listed_of(data[at:stop])
            if listed is None:
                return None
            known = self._as_known(listed, data[at:stop], given=stop < end)
            self._keep(key, known)
        return known if known.size == end - at and data.startswith(known.head, at) else None

    def _keep(self, key: bytes, known: _Known) -> None:
        if len(self._known) >= KEPT_LISTS:
            self._known.clear()
        if len(known.listed.actions) <= KEPT_LENGTH:
            self._known[key] = known

    def _as_known(self, listed: CandidateList, encoded: bytes, *, given: bool) -> _Known:
        features = 4 * self.rules.feature_size * len(listed.actions) if given else 0
        # Where a task has no features, nothing that follows the actions fits.
        head = encoded + _PACKED_FEATURES + varint(features or _NEVER) if given else encoded
        return _Known(listed, head, features, len(head) + features)


def around_context(rules: TaskRules) -> tuple[bytes, bytes]:
    """What stands before and behind the packed numbers of a request's context."""
    packed = 4 * rules.context_size
    behind = b"\x1a" + varint(len(rules.schema_digest)) + rules.schema_digest.encode()
    inner = b"\x12" + varint(packed)
    return b"\x2a" + varint(len(inner) + packed + len(behind)) + inner, behind


def task_heads(rules: TaskRules) -> list[bytes]:
    """How the requests of a task begin: with its tenant, or, for the default tenant, without."""
    task = length_delimited(_TASK, rules.name.encode())
    named = length_delimited(_TENANT, rules.tenant.encode()) + task
    return [named, task] if rules.tenant == DEFAULT_TENANT else [named]


class PlainReaders:
    """Reads the requests of all tasks: as plain ones where they are, else by protobuf. Thread-safe."""

    def __init__(self, holders: Mapping[TaskKey, HasRules], *, new_request_id: Callable[[], str]) -> None:
        """`new_request_id` names a request that has no id."""
        self._new_request_id = new_request_id
        self._places = {head: holder for holder in holders.values() for head in task_heads(holder.rules)}
        self._readers: dict[bytes, PlainReader] = {}
        # How the last request began; one that begins alike is of the same task.
        self._last = b"\0"

    def one(self, data: bytes) -> SelectRequest | PlainRequest:
        """The request of a serialised SelectRequest. Raises DecodeError."""
        return self._plain(data, Span(0, len(data))) or SelectRequest.FromString(data)

    def batch(self, data: bytes) -> Sequence[SelectRequest | PlainRequest]:
        """The requests of a serialised SelectBatchRequest. Raises DecodeError."""
        found = [self._plain(data, span) for span in spans(data) or ()]
        if found and None not in found:
            return cast(list[PlainRequest], found)
        messages = SelectBatchRequest.FromString(data).requests
        # A batch that `spans` could not tell apart is protobuf's as a whole.
        return [plain or message for plain, message in zip(found, messages, strict=True)] if found else messages

    def _plain(self, data: bytes, span: Span) -> PlainRequest | None:
        try:
            reader, at = self.begun(data, span.start)
            return reader.read(data, span, at, self._new_request_id) if reader is not None else None
        except (IndexError, UnicodeDecodeError):
            return None

    def begun(self, data: bytes, start: int) -> tuple[PlainReader | None, int]:
        """Who reads the request that begins at `start`, and where its unit begins. Raises IndexError for some that are not plain."""
        begun = self._last
        if not data.startswith(begun, start):
            at = _behind_text(data, start) if data[start] == _TENANT[0] else start
            begun = data[start : _behind_text(data, at)]
        return self._reader(begun), start + len(begun)

    def _reader(self, begun: bytes) -> PlainReader | None:
        """Of the task that is named so, by its rules of this moment."""
        holder = self._places.get(begun)
        if holder is None:
            return None
        self._last = begun
        found = self._readers.get(begun)
        if found is None or found.rules is not holder.rules:
            found = self._readers[begun] = PlainReader(holder.rules)
        return found


def first_span(data: bytes) -> Span:
    """Where the first request of a serialised SelectBatchRequest lies. Raises IndexError if it does not begin with one."""
    if data[0] != 0x0A:
        raise IndexError
    length, start = _varint(data, 1)
    return Span(start, start + length)


def spans(data: bytes) -> list[Span] | None:
    """Where the requests of a serialised SelectBatchRequest lie; None if there is anything else in it."""
    found, at, size = [], 0, len(data)
    # Most have the length of the one before.
    begun, length = b"", 0
    try:
        while at < size:
            if begun and data.startswith(begun, at):
                start = at + len(begun)
            elif data[at] == 0x0A:
                length, start = _varint(data, at + 1)
                begun = data[at:start]
            else:
                return None
            at = start + length
            found.append(Span(start, at))
    except IndexError:
        return None
    return found if at == size else None


def listed_of(encoded: bytes) -> CandidateList | None:
    """The candidates of the field `actions` of a CandidateSet, serialised; None if they are to be refused."""
    names, at = [], 0
    while at < len(encoded):
        stop = _behind_text(encoded, at)
        names.append(encoded[at + 2 : stop].decode())
        at = stop
    try:
        return candidate_list(tuple(names)) if names else None
    except RequestRefused:
        return None


def _text(data: bytes, at: int) -> tuple[str, int]:
    """The text of a field and the place behind it. Raises IndexError if it is empty or long, or holds a NUL."""
    size = data[at + 1]
    stop = at + 2 + size
    found = data[at + 2 : stop]
    if not 0 < size < _ONE_BYTE or 0 in found:
        raise IndexError
    return found.decode(), stop


def _behind_text(data: bytes, at: int) -> int:
    """The place behind a text of less than 128 bytes. Raises IndexError for longer ones."""
    size = data[at + 1]
    if size >= _ONE_BYTE:
        raise IndexError
    return at + 2 + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number below 2^28 in as few bytes as it takes, and the place behind it. Raises IndexError for any other."""
    value = data[at]
    if value < _ONE_BYTE:
        return value, at + 1
    value &= 127
    for place in range(1, 4):
        group = data[at + place]
        if group < _ONE_BYTE:
            if not group:
                raise IndexError
            return value | group << 7 * place, at + place + 1
        value |= (group & 127) << 7 * place
    raise IndexError
