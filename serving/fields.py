"""Checks of one field of a message, whatever the message: ids, digests, packed numbers. Pure."""

import numpy as np

from serving.errors import RequestRefused

__all__ = [
    "DECISION_ID_BYTES",
    "ID_BYTES",
    "check_decision_id",
    "check_digest",
    "check_id",
    "check_packed",
    "normal_floats",
    "refused",
    "shown",
]

# Longest id that travels, bytes.
ID_BYTES = 128
DECISION_ID_BYTES = 16
_DIGEST_CHARACTERS = 64
_SHOWN_CHARACTERS = 64


def refused(field: str, fault: str) -> RequestRefused:
    """The refusal of a field: `fault` says what was received and what to do."""
    return RequestRefused(f"{field}: {fault}", field=field)


def shown(value: object) -> str:
    """A value as errors show it: quoted, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def check_id(value: str, *, field: str, optional: bool = False) -> None:
    """Raises RequestRefused unless `value` has 1..128 bytes and no NUL (or is empty where optional). Never shown: it may be personal."""
    if value.isascii() and 0 < len(value) <= ID_BYTES and "\0" not in value:
        return
    size = len(value.encode())
    if size == 0 and optional:
        return
    if not 1 <= size <= ID_BYTES:
        raise refused(field, f"has {size} bytes; give 1 to {ID_BYTES}")
    if "\0" in value:
        raise refused(field, "holds a NUL character; leave it out")


def check_decision_id(value: bytes, *, field: str, optional: bool = False) -> None:
    """Raises RequestRefused unless `value` is a decision id of 16 bytes (or is empty where optional)."""
    if len(value) != DECISION_ID_BYTES and not (optional and not value):
        raise refused(field, f"has {len(value)} bytes; give the {DECISION_ID_BYTES} of a decision id{', or none' if optional else ''}")


def check_digest(value: str, *, field: str) -> None:
    """Raises RequestRefused unless `value` is empty or 64 lower-case hex digits."""
    if value and (len(value) != _DIGEST_CHARACTERS or not set(value) <= set("0123456789abcdef")):
        raise refused(field, f"{shown(value)} is no digest; give {_DIGEST_CHARACTERS} lower-case hex digits, or none")


def check_packed(data: bytes, *, count: int, field: str) -> None:
    """Raises RequestRefused unless `data` has the length of `count` float32; the numbers themselves are checked where they are used."""
    if len(data) != 4 * count:
        received = f"{len(data) // 4} numbers" if len(data) % 4 == 0 else f"{len(data)} bytes"
        raise refused(field, f"holds {received}; give {count} little-endian float32 = {4 * count} bytes, in schema order")


def normal_floats(values: np.ndarray, *, field: str) -> np.ndarray:
    """The f32 values, if each is zero or a normal number.

    Raises RequestRefused for NaN, infinity, and for subnormal numbers: compilers may flush those to zero, and a replay would differ.
    """
    magnitude = values.view("<u4") & np.uint32(0x7FFFFFFF)
    # The smallest normal number has the bits 0x00800000, infinity 0x7F800000; below the former the difference wraps to the top.
    sound = ((magnitude - np.uint32(0x00800000)) < np.uint32(0x7F000000)) | (magnitude == 0)
    if not sound.all():
        at = int(np.flatnonzero(~sound.reshape(-1))[0])
        value = float(values.reshape(-1)[at])
        raise refused(field, f"number {at} is {value!r}; give finite numbers, and 0 instead of subnormal ones")
    return values
