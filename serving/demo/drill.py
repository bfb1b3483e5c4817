"""The drill: a challenger that is truly worse, planted and labelled, to show that the gate stops it.

It is the newest trained state with its actions shifted by one row, as an off-by-one in an action table would leave it: a bug that
no exception shows.
"""

import contextlib

import jax
import numpy as np

from bandits.errors import StoreError
from bandits.snapshots import Draft
from bandits.store import Store

__all__ = ["LABEL", "Drill"]

LABEL = "drill: actions shifted by one"
_IDENTITY = ("tenant", "task", "actions", "schema_digest", "config_digest", "training_watermark_us", "rows", "cursor")


class Drill:
    """Waits for something to spoil, then for the moment between two challengers of the learner."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._digest = ""
        self._entered = False

    def step(self, *, now_us: int) -> None:
        """One try at what is next: publishing the spoilt snapshot, or entering it as challenger."""
        if not self._digest:
            self._digest = _publish(self._store, now_us)
        elif not self._entered and not self._store.challengers():
            # The learner's own may still come in between.
            with contextlib.suppress(StoreError):
                self._store.challenge(self._digest, now_us=now_us)
                self._entered = True

    @property
    def waits(self) -> bool:
        """Whether the planted challenger has no verdict yet."""
        return self._entered and any(challenger.digest == self._digest for challenger in self._store.challengers())


def _publish(store: Store, now_us: int) -> str:
    """Digest of the spoilt snapshot; empty while nothing trained serves."""
    pointer = store.champion()
    if pointer is None or pointer.digest == pointer.baseline:
        return ""
    snapshot = store.read(pointer.digest)
    draft = Draft(
        spec=snapshot.manifest.spec,
        state=jax.tree.map(lambda leaf: _shifted(leaf, actions=len(snapshot.manifest.actions)), snapshot.state),
        manifest={
            **{name: getattr(snapshot.manifest, name) for name in _IDENTITY},
            "kind": "refresh",
            "parent": pointer.digest,
            "created_us": now_us,
            "label": LABEL,
        },
    )
    return store.publish(draft)


def _shifted(leaf: np.ndarray, *, actions: int) -> np.ndarray:
    """The leaf with its actions shifted by one: along the first axis that has one place for each; a leaf without one stays."""
    return np.roll(leaf, 1, axis=leaf.shape.index(actions)) if actions in leaf.shape else leaf
