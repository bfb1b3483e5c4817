"""A SelectBatch of plain requests that are alike, read as columns.

Alike are the requests of one task that name the same candidates and the same slate size: of the second and every later one only the unit,
the request id and the numbers may differ from the first, which is read as any request is (`serving.plain`). Everything else in them is
compared with the first, byte by byte. What is not alike, and a batch in which any request has no whole slate, has been seen before or
meets a log that takes nothing, goes the way of all requests, which is the definition: a test compares bytes. This
costs a third of the Python.
"""

import dataclasses
import struct
from collections.abc import Sequence
from typing import NamedTuple

from serving.plain import PlainReader, PlainReaders, Span, first_span, spans
from serving.validate import Selection

__all__ = ["Alike", "read_alike"]

# Fewer are not worth it: the first is read twice.
_FEWEST = 4
_REQUEST_ID, _LONGEST = 0x22, 127
_Columns = tuple[Sequence[bytes], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Alike:
    """n requests that are alike: the `first` as it was read, and the columns in which they differ.

    `units` and `request_ids` as UTF-8, the latter empty if they have none; `contexts` and `features`: bytes of little-endian float32, not
    yet known to be sound; `data`: the batch as it came.
    """

    first: Selection
    units: Sequence[bytes]
    request_ids: Sequence[bytes]
    contexts: Sequence[bytes]
    features: Sequence[bytes]
    data: bytes

    def __len__(self) -> int:
        return len(self.units)


class _Template(NamedTuple):
    """The first request in parts: up to the unit's length, its length, what stands before its numbers, between those of the context and of
    the candidates, and behind; and how long unit, request id (0 = it has none), context and candidates' numbers are."""

    begun: bytes
    before: bytes
    between: bytes
    behind: bytes
    unit: int
    own: int
    context: int
    features: int

    @property
    def tail(self) -> int:
        """Bytes behind the ids."""
        return len(self.before) + self.context + len(self.between) + self.features + len(self.behind)


def read_alike(readers: PlainReaders, data: bytes) -> Alike | None:
    """The requests of a serialised SelectBatchRequest, if they are alike; else None."""
    try:
        start, end = first_span(data)
        if end * _FEWEST > len(data):
            return None
        reader, at = readers.begun(data, start)
        # Whatever id it has, or gets, is read with those of the others.
        first = reader.read(data, Span(start, end), at, str) if reader is not None else None
        if reader is None or first is None:
            return None
        template = _template(data, Span(start, end), at, reader)
        found = _of_one_length(data, Span(start, end), template) or _of_any_length(data, template)
        if found is None or not (_are_texts(found[0]) and _are_texts(found[1])):
            return None
    except (IndexError, UnicodeDecodeError):
        return None
    units, request_ids, contexts, features = found
    return Alike(first.selection, units, request_ids, contexts, features or [first.selection.features] * len(units), data)


def _template(data: bytes, first: Span, at: int, reader: PlainReader) -> _Template:
    begun, unit, own = data[first.start : at + 1], data[at + 1], 0
    at += 2 + unit
    if data[at] == _REQUEST_ID:
        own = data[at + 1]
        at += 2 + own
    context, features = reader.numbers(data, at, first.end)
    parts = (data[at : context.start], data[context.end : features.start], data[features.end : first.end])
    return _Template(begun, *parts, unit, own, context.end - context.start, features.end - features.start)


def _of_one_length(data: bytes, first: Span, template: _Template) -> _Columns | None:
    """Units, request ids, contexts and features, where all requests have the lengths of the first; they are cut apart in one pass."""
    start, size = first
    if len(data) % size:
        return None
    before, between, behind = template[1:4]
    # What leads to the unit holds its length too; what leads to the numbers begins with the request id's, where there is one.
    led = start + len(template.begun) + 1
    own = (2, template.own) if template.own else (0, 0)
    lengths = (led, template.unit, *own, len(before), template.context, len(between), template.features, len(behind))
    cut = struct.iter_unpack("".join(f"{length}s" for length in lengths), data)
    parts = list(zip(*cut, strict=True))
    if any(part.count(part[0]) < len(part) for part in (parts[0], parts[2], parts[4], parts[6], parts[8])):
        return None
    return parts[1], parts[3] if template.own else (), parts[5], parts[7] if template.features else ()


def _of_any_length(data: bytes, template: _Template) -> _Columns | None:
    """The same, request by request; None where one differs from the template."""
    begun, before, between, behind = template[:4]
    context, features, own_ids = template.context, template.features, template.own > 0
    tail, starts = template.tail, data.startswith
    columns: tuple[list[bytes], ...] = ([], [], [], [])
    units, request_ids, contexts, candidates = columns
    for start, end in spans(data) or ():
        at = start + len(begun)
        size = data[at]
        if not starts(begun, start) or not 0 < size <= _LONGEST:
            return None
        units.append(data[at + 1 : at + 1 + size])
        at += 1 + size
        if own_ids:
            size = data[at + 1]
            if data[at] != _REQUEST_ID or not 0 < size <= _LONGEST:
                return None
            request_ids.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        numbers = at + len(before)
        others = end - len(behind) - features
        if at + tail != end or not (starts(before, at) and starts(between, numbers + context) and starts(behind, others + features)):
            return None
        contexts.append(data[numbers : numbers + context])
        if features:
            candidates.append(data[others : others + features])
    return columns if units else None


def _are_texts(texts: Sequence[bytes]) -> bool:
    """Is each UTF-8 without a NUL? Raises UnicodeDecodeError if one is not."""
    joined = b"".join(texts)
    if not joined.isascii():
        for text in texts:
            text.decode()
    return 0 not in joined
