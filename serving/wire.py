"""Protobuf's wire format, as far as the two messages need it that are written for every decision.

A message object for each slot costs more than the decision itself. Fields may stand in any order and messages may be joined by joining
their bytes (https://protobuf.dev/programming-guides/encoding), so what many requests share is serialised once, and joined with the rest.
"""

import functools
import struct

import numpy as np

__all__ = ["SLOT_NUMBERS_BYTES", "double", "head", "length_delimited", "slot_numbers", "slot_numbers_of", "times_of", "varint"]

_ONE_BYTE = [bytes([value]) for value in range(128)]
_NUMBERS = struct.Struct("<BBBBBBBdBd")
_DOUBLE = struct.Struct("<d")
SLOT_NUMBERS_BYTES = _NUMBERS.size
# Slots at a time from which numpy is faster than one after the other.
_FEW = 24
_BLANK = np.frombuffer(_NUMBERS.pack(0x10, 0, 0, 0, 0, 0, 0x19, 0.0, 0x21, 0.0), np.uint8)
_SHIFTS, _MORE = np.array([0, 7, 14, 21, 28], np.uint32), np.array([128, 128, 128, 128, 0], np.uint32)


def varint(value: int) -> bytes:
    """A number >= 0 in groups of seven bits, lowest first."""
    if value < 128:
        return _ONE_BYTE[value]
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def length_delimited(tag: bytes, data: bytes) -> bytes:
    """A field of bytes, text or message."""
    return tag + varint(len(data)) + data


@functools.lru_cache(maxsize=1024)
def head(tag: bytes, size: int) -> bytes:
    """How a field of so many bytes begins."""
    return tag + varint(size)


def times_of(now_us: int) -> tuple[bytes, int]:
    """What follows the body of a Decision in its Event: its own time and the append's; and how many bytes of that are the Decision's."""
    time = varint(now_us)
    return b"\x38" + time + b"\x78" + time, len(time) + 1


def double(tag: bytes, value: float) -> bytes:
    """A field of type double."""
    return tag + _DOUBLE.pack(value)


def slot_numbers(numerator: int, propensity: float, score: float) -> bytes:
    """The fields `numerator` (below 2^35), `propensity` and `score` of a Slot: SLOT_NUMBERS_BYTES, whatever they are.

    The numerator takes five bytes even where fewer would do, which every reader of the format takes (the encoding page calls such numbers
    non-canonical), so that the length of a slot is known before its numbers are.
    """
    low, second, third = numerator & 127 | 128, numerator >> 7 & 127 | 128, numerator >> 14 & 127 | 128
    return _NUMBERS.pack(0x10, low, second, third, numerator >> 21 & 127 | 128, numerator >> 28, 0x19, propensity, 0x21, score)


def slot_numbers_of(numerators: np.ndarray, propensities: np.ndarray, scores: np.ndarray) -> bytes:
    """The `slot_numbers` of many slots, each SLOT_NUMBERS_BYTES long, behind each other. Arrays u32, f64 and f64 of one shape."""
    if numerators.size < _FEW:
        given = zip(numerators.ravel().tolist(), propensities.ravel().tolist(), scores.ravel().tolist(), strict=True)
        return b"".join([slot_numbers(*slot) for slot in given])
    shape = (*numerators.shape, 8)
    data = np.empty((*numerators.shape, SLOT_NUMBERS_BYTES), np.uint8)
    data[...] = _BLANK
    data[..., 1:6] = (numerators[..., None] >> _SHIFTS) & np.uint32(127) | _MORE
    data[..., 7:15] = np.ascontiguousarray(propensities).view(np.uint8).reshape(shape)
    data[..., 16:24] = np.ascontiguousarray(scores).view(np.uint8).reshape(shape)
    return data.tobytes()
