"""Protobuf's wire format, as far as the two messages need it that are written for every decision.

A message object for each slot costs more than the decision itself. Fields may stand in any order and messages may be joined by joining
their bytes (https://protobuf.dev/programming-guides/encoding), so what many requests share is serialised once, and joined with the rest.
"""

import struct

__all__ = ["SLOT_NUMBERS_BYTES", "double", "length_delimited", "slot_numbers", "varint"]

_ONE_BYTE = [bytes([value]) for value in range(128)]
_NUMBERS = struct.Struct("<BBBBBBBdBd")
_DOUBLE = struct.Struct("<d")
SLOT_NUMBERS_BYTES = _NUMBERS.size


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
