"""The named candidates of a request, with what is worked out of them once and used again: callers name the same ones over and over."""

import functools
from collections import Counter

import numpy as np

from bandits.loaded import LoadedPolicy
from bandits.packed import ELIGIBLE
from protos.events_pb2 import CandidateSet
from serving.fields import check_id, refused, shown
from serving.wire import SLOT_NUMBERS_BYTES, length_delimited, varint

__all__ = ["KEPT_LENGTH", "KEPT_LISTS", "CandidateList", "candidate_list"]

_FIELD = "candidates.actions"
# Lists that are kept, and the longest that is: at most some 20 MB of names.
KEPT_LISTS, KEPT_LENGTH = 1024, 128
# Snapshots whose indices are kept with a list: champion, previous, baseline, challengers, and some that have just gone.
_KEPT_SNAPSHOTS = 8


class CandidateList:
    """Distinct action ids in the order of a request. Immutable but for what it remembers. Raises RequestRefused for ids that are none."""

    def __init__(self, actions: tuple[str, ...]) -> None:
        _check(actions)
        self.actions = actions
        #: The field `actions` of a CandidateSet, as it is logged.
        self.encoded: bytes = CandidateSet(actions=actions).SerializeToString()
        #: The field `action` of the slot in which each candidate stands.
        self.slot_heads = [length_delimited(b"\x0a", action.encode()) for action in actions]
        #: As it begins the field `slots` of a Decision and of a SelectResponse, where nothing but `slot_numbers` follows.
        self.logged_heads = [_begun(b"\x52", head) for head in self.slot_heads]
        self.answered_heads = [_begun(b"\x12", head) for head in self.slot_heads]
        #: Both as arrays u8[K, bytes], where all have one length; else None.
        self.head_blocks = _blocks(self.logged_heads, self.answered_heads)
        self._words: dict[tuple[str, int], bytes] = {}
        self._set_heads: dict[int, bytes] = {}

    @functools.cached_property
    def names(self) -> np.ndarray:
        """The ids as an array of objects [K + 1], with "" behind them, which ABSENT picks."""
        return np.array([*self.actions, ""], object)

    def set_head(self, size: int) -> bytes:
        """The field `candidates` of a Decision up to `size` bytes of packed features, which are all that follows."""
        found = self._set_heads.get(size)
        if found is None:
            features = b"\x22" + varint(size) if size else b""
            found = b"\x4a" + varint(len(self.encoded) + len(features) + size) + self.encoded + features
            # Of one schema, or of the few that tasks with the same candidates have.
            if len(self._set_heads) >= _KEPT_SNAPSHOTS:
                self._set_heads.clear()
            self._set_heads[size] = found
        return found

    def words(self, policy: LoadedPolicy, width: int) -> bytes:
        """Scores (none) and actions (all eligible) of a row of words, padded to `width` candidates; see bandits.packed."""
        key = (policy.digest, width)
        found = self._words.get(key)
        if found is None:
            found = bytes(8 * width) + self._indices(policy, width).tobytes()
            if len(self._words) >= _KEPT_SNAPSHOTS:
                self._words.clear()
            self._words[key] = found
        return found

    def words_of(self, policy: LoadedPolicy, width: int, *, eligible: list[bool], scores: list[float]) -> bytes:
        """As `words`, for candidates with eligibility or scores of their own; an empty list = none given."""
        count, columns = len(self.actions), self._indices(policy, width)
        if eligible:
            columns[:count] &= np.where(eligible, np.uint32(0xFFFFFFFF), np.uint32(ELIGIBLE - 1))
        ranked = np.zeros(width)
        ranked[: len(scores)] = scores
        return ranked.tobytes() + columns.tobytes()

    def _indices(self, policy: LoadedPolicy, width: int) -> np.ndarray:
        index, cold = policy.action_index, policy.cold_action
        words = np.full(width, cold, np.uint32)
        words[: len(self.actions)] = [index.get(action, cold) | ELIGIBLE for action in self.actions]
        return words


def candidate_list(actions: tuple[str, ...]) -> CandidateList:
    """The list of these ids, the same object for the same ids where it is short. Raises RequestRefused."""
    return _kept(actions) if len(actions) <= KEPT_LENGTH else CandidateList(actions)


@functools.lru_cache(maxsize=KEPT_LISTS)
def _kept(actions: tuple[str, ...]) -> CandidateList:
    return CandidateList(actions)


def _begun(tag: bytes, head: bytes) -> bytes:
    return tag + varint(len(head) + SLOT_NUMBERS_BYTES) + head


def _blocks(*columns: list[bytes]) -> tuple[np.ndarray, ...] | None:
    if len({len(part) for part in columns[0]}) != 1:
        return None
    return tuple(np.frombuffer(b"".join(column), np.uint8).reshape(len(column), -1) for column in columns)


def _check(actions: tuple[str, ...]) -> None:
    if len(set(actions)) < len(actions):
        double = next(action for action, times in Counter(actions).items() if times > 1)
        raise refused(_FIELD, f"{shown(double)} stands twice; name each action once")
    for index, action in enumerate(actions):
        check_id(action, field=f"{_FIELD}[{index}]")
