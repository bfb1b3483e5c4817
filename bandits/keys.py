"""Where randomness comes from: a decision id, and a counter-based generator keyed by it.

The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). It
is written here on plain uint32 arithmetic, for numpy and for JAX alike, because a logged draw must be derivable for years: JAX's own
bits depend on a flag whose default has changed between versions.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "DECISION_ID_BYTES",
    "around_request",
    "around_unit",
    "decision_id",
    "draw_key",
    "slot_draws",
    "sticky_key",
    "threefry2x32",
    "value_draws",
    "walk_key",
]

DECISION_ID_BYTES = 16
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
# Skein's key-schedule constant, as in the paper.
_PARITY = 0x1BD11BDA
# Second word of the counter: what a number is for, so that no two uses share one.
_SLOT_DRAW, _VALUE_DRAW, _WALK = 0, 1, 2


def decision_id(*, tenant: str, task: str, request_id: str, arm: str, snapshot_digest: str) -> bytes:
    """Sixteen bytes that name the decision: the same request on the same snapshot and arm is the same decision."""
    before, behind = around_request(tenant, task, arm, snapshot_digest)
    own = request_id.encode()
    parts = (before, len(own).to_bytes(4, "little"), own, behind)
    return hashlib.blake2b(b"".join(parts), digest_size=DECISION_ID_BYTES).digest()


def draw_key(identifier: bytes) -> np.ndarray:
    """Key of a decision's draws, u32[2], from its id."""
    return np.frombuffer(identifier[:8], dtype="<u4").astype(np.uint32)


def sticky_key(*, task: str, unit_id: str, epoch: int) -> np.ndarray:
    """Key of a sticky draw, u32[2]: the same for a unit through an epoch, whatever the request."""
    before, behind = around_unit(task, epoch)
    own = unit_id.encode()
    parts = (before, len(own).to_bytes(4, "little"), own, behind)
    return draw_key(hashlib.blake2b(b"".join(parts), digest_size=DECISION_ID_BYTES).digest())


def slot_draws(key: Any, slots: int) -> Any:
    """Uniform integers in [0, 2^31), u32[slots], one a slot. `key` is u32[2], of numpy or JAX."""
    return _draws(key, slots, _SLOT_DRAW)


def value_draws(key: Any, slots: int) -> Any:
    """Uniform integers in [0, 2^31), u32[slots], that place a value within the bin drawn for a slot. `key` is u32[2], of numpy or JAX."""
    return _draws(key, slots, _VALUE_DRAW)


def walk_key(key: Any, walk: Any) -> tuple[Any, Any]:
    """Key of the walk of a number (u32) among many through one request; `key` is u32[2], of numpy or JAX."""
    return threefry2x32((key[0], key[1]), (walk, np.uint32(_WALK)))


def threefry2x32(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Two pseudo-random words for each counter, uint32 arrays of the counter's shape."""
    with np.errstate(over="ignore"):
        schedule = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(_PARITY))
        x, y = counter[0] + schedule[0], counter[1] + schedule[1]
        for block in range(5):
            for rotation in _ROTATIONS[block % 2]:
                x = x + y
                y = x ^ ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation)))
            x = x + schedule[(block + 1) % 3]
            y = y + schedule[(block + 2) % 3] + np.uint32(block + 1)
        return x, y


def _draws(key: Any, slots: int, purpose: int) -> Any:
    counter = np.arange(slots, dtype=np.uint32)
    first, _ = threefry2x32((key[0], key[1]), (counter, np.full_like(counter, purpose)))
    return first >> np.uint32(1)


@functools.lru_cache(maxsize=1024)
def around_request(tenant: str, task: str, arm: str, snapshot_digest: str) -> tuple[bytes, bytes]:
    """What is hashed before and behind the request id, its length before it: of all decisions of one arm and snapshot."""
    return _length_prefixed((tenant, task)), _length_prefixed((arm, snapshot_digest))


@functools.lru_cache(maxsize=1024)
def around_unit(task: str, epoch: int) -> tuple[bytes, bytes]:
    """What is hashed before and behind the unit, its length before it: of all sticky draws of a task in an epoch."""
    return _length_prefixed(("sticky", task)), _length_prefixed((str(epoch),))


def _length_prefixed(parts: Sequence[str]) -> bytes:
    """No two lists of strings give the same bytes."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "little") + part for part in encoded)
