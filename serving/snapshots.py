"""Which snapshot decides: follows the store's pointer, and swaps one reference once the new policy is verified and warm.

A bad snapshot never unseats a good one: it is counted, logged, and tried again later. The previous champion stays loaded, so that a
rollback is one poll away, and so does the baseline, which the kill switch puts in charge. While a promotion is staged, the challenger
is loaded beside the champion and decides for its share of the units.
"""

import dataclasses
import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from bandits.catalog import PolicySpec, build
from bandits.errors import BanditsError, SnapshotError
from bandits.loaded import LoadedPolicy
from bandits.programs import BATCH_BUCKETS, run_decide
from bandits.requests import Requests
from bandits.store import Pointer
from bandits.traffic import CHALLENGER_ARM, Assignment, Split, assign, whole
from serving.catalogues import CatalogueFile
from serving.errors import NotReady, SnapshotNotServed
from serving.fields import shown
from serving.tasks import Shapes, TaskRules

__all__ = ["WHOLE", "Served", "SnapshotHolder", "SnapshotWatch", "SourceOfSnapshots", "warm_program"]

_logger = logging.getLogger(__name__)
# A snapshot that failed to load is tried again after 1, 2, 4, ... polls, at most so many.
_MOST_POLLS_BETWEEN = 64
#: The arm of everyone, where no promotion is staged.
WHOLE = whole()


class SourceOfSnapshots(Protocol):
    """What the holder needs of a store."""

    def champion(self) -> Pointer | None:
        """The pointer."""

    def load(self, digest: str) -> LoadedPolicy:
        """A verified policy."""

    @property
    def kill_switch(self) -> bool:
        """true = the baseline decides."""


class KeeperOfBeside(Protocol):
    """Follows what stands beside the decisions of a task; see serving.traffic."""

    def begin(self, load: Callable[[str], LoadedPolicy], *, now_us: int) -> Any:
        """What stands at the start; None = nothing."""

    def look(self, load: Callable[[str], LoadedPolicy]) -> Any:
        """What stands now, the same object where nothing changed; None = nothing."""


class Served(NamedTuple):
    """What may decide now. `previous` is None while there was none, or where it cannot be loaded.

    `challenger` and `split` are there while a promotion is staged and its challenger is loaded; until then the champion decides for
    all, and says so in the logged arm.
    """

    champion: LoadedPolicy
    previous: LoadedPolicy | None
    baseline: LoadedPolicy
    kill_switch: bool
    challenger: LoadedPolicy | None = None
    split: Split | None = None
    #: A traffic.beside.Beside, or None: then a request is decided as if nothing of the kind existed.
    beside: Any = None

    @property
    def deciding(self) -> LoadedPolicy:
        """The policy of requests that pin none; of the champion's arm, while a promotion is staged."""
        return self.baseline if self.kill_switch else self.champion

    def assigned(self, *, task: str, unit_id: str) -> tuple[LoadedPolicy, Assignment]:
        """Who decides for a unit, and in which arm it is. The kill switch ends an experiment."""
        if self.kill_switch or self.challenger is None:
            return self.deciding, WHOLE
        assignment = assign(task=task, unit_id=unit_id, split=self.split)
        return (self.challenger if assignment.arm == CHALLENGER_ARM else self.champion), assignment

    def pinned(self, digest: str) -> LoadedPolicy:
        """The policy that a request pins, empty = none. Raises SnapshotNotServed."""
        allowed = (self.baseline,) if self.kill_switch else (self.champion, self.challenger, self.previous, self.baseline)
        for policy in allowed:
            if policy is not None and digest in ("", policy.digest):
                return policy
        field, remedy = "snapshot_digest", f"leave it out, or pin {self.deciding.digest}"
        raise SnapshotNotServed(f"{field}: {shown(digest)} is not loaded here; {remedy}", field=field)


class SnapshotHolder:
    """The served snapshots of one task. Thread-safe: looks at the store take turns, and nobody waits for `served`."""

    def __init__(
        self,
        source: SourceOfSnapshots,
        rules: TaskRules,
        *,
        catalogue: CatalogueFile | None = None,
        keeper: KeeperOfBeside | None = None,
        now_us: Callable[[], int] = lambda: 0,
    ) -> None:
        """`keeper` follows what stands beside the decisions; `now_us` dates its first move of the traffic."""
        #: Swapped as a whole when the catalogue changes.
        self.rules = rules
        self._catalogue, self._keeper, self._now_us = catalogue, keeper, now_us
        #: Snapshots that failed to load since the start.
        self.failures = 0
        self._source = source
        self._served: Served | None = None
        self._failed: tuple[str, int] = ("", 0)
        self._polls_to_skip = 0
        self._looking = threading.Lock()

    @property
    def served(self) -> Served:
        """What may decide now. Raises NotReady before the first snapshot is warm."""
        if self._served is None:
            raise NotReady(f"task: {self.rules.name!r} has no warm snapshot yet; wait until its health is SERVING")
        return self._served

    @property
    def ready(self) -> bool:
        """Is there a warm snapshot?"""
        return self._served is not None

    def start(self) -> None:
        """Loads and warms the champion, and compiles the task's own policy, so that its first challenger finds its programs ready.

        Raises BanditsError if there is no champion to serve.
        """
        pointer = self._source.champion()
        if pointer is None:
            raise SnapshotError(f"task {self.rules.name!r}: the store has no champion; begin it with ensure_champion")
        baseline = self._load(pointer.baseline)
        champion = baseline if pointer.digest == baseline.digest else self._load(pointer.digest)
        served = Served(champion, self._load_if_sound(pointer.previous), baseline, self._source.kill_switch)
        challenger = self._load_if_sound(pointer.challenger)
        served = served._replace(challenger=challenger, split=pointer.split if challenger else None)
        # Before anyone is answered: a unit that is held out must not be decided for by the champion meanwhile.
        beside = self._keeper.begin(self._load, now_us=self._now_us()) if self._keeper is not None else None
        self._served = served._replace(beside=beside)
        own = self.rules.policy.spec
        if all(policy is None or policy.manifest.spec != own for policy in (champion, served.previous, baseline, challenger)):
            warm_program(own, self.rules.shapes)

    def refresh(self) -> bool:
        """One look at the store; true if something else decides now. A failure leaves what serves in charge."""
        with self._looking:
            return self._look()

    def _look(self) -> bool:
        before, wanted = self.served, ""
        after = before._replace(kill_switch=self._source.kill_switch)
        try:
            pointer = self._source.champion()
            if pointer is not None and _differs(before, pointer):
                after, wanted = _without_ended_stage(after, pointer), pointer.challenger or pointer.digest
                if not self._waits(wanted):
                    after = self._moved(after, pointer)
                    self._failed = ("", 0)
        except (BanditsError, OSError) as error:
            self._note_failure(wanted, error)
        if self._keeper is not None:
            after = after._replace(beside=self._keeper.look(self._load))
        self._served = after
        return after.deciding is not before.deciding or after.split != before.split or after.beside is not before.beside

    def refresh_catalogue(self) -> bool:
        """One look at the catalogue's file; true if another one is served now."""
        found = self._catalogue.poll() if self._catalogue is not None else None
        if found is None or found.version == self.rules.catalogue.version:
            return False
        self.rules = dataclasses.replace(self.rules, catalogue=found)
        return True

    def _moved(self, served: Served, pointer: Pointer) -> Served:
        sorts = (served.champion, served.challenger, served.previous, served.baseline)
        loaded = {policy.digest: policy for policy in sorts if policy is not None}
        champion = loaded.get(pointer.digest) or self._load(pointer.digest)
        challenger = (loaded.get(pointer.challenger) or self._load(pointer.challenger)) if pointer.challenger else None
        previous = served.previous if champion is served.champion else served.champion
        return served._replace(champion=champion, previous=previous, challenger=challenger, split=pointer.split)

    def _load(self, digest: str) -> LoadedPolicy:
        policy = self._source.load(digest)
        found, wanted = policy.manifest.schema_digest, self.rules.schema_digest
        if found != wanted:
            raise SnapshotError(f"snapshot {digest}: made for the feature schema {found}, this task has {wanted}; learn it again")
        for slots in self.rules.shapes.slots:
            policy.warm(candidates=self.rules.shapes.widths, slots=slots)
        return policy

    def _load_if_sound(self, digest: str) -> LoadedPolicy | None:
        try:
            return self._load(digest) if digest else None
        except BanditsError as error:
            self._note_failure(digest, error)
            return None

    def _waits(self, digest: str) -> bool:
        """Is it too early to try this snapshot again?"""
        if self._failed[0] != digest or self._polls_to_skip == 0:
            return False
        self._polls_to_skip -= 1
        return True

    def _note_failure(self, digest: str, error: Exception) -> None:
        times = self._failed[1] + 1 if self._failed[0] == digest else 1
        self._failed = (digest, times)
        self._polls_to_skip = min(1 << (times - 1), _MOST_POLLS_BETWEEN)
        self.failures += 1
        _logger.error("task %s: snapshot %s is not served (%s); the one before stays", self.rules.name, digest, error)


def _differs(served: Served, pointer: Pointer) -> bool:
    return (served.champion.digest, served.split) != (pointer.digest, pointer.split)


def _without_ended_stage(served: Served, pointer: Pointer) -> Served:
    """A challenger that the pointer no longer names decides for nobody, whether or not what it names now can be loaded."""
    if served.challenger is None or served.challenger.digest in (pointer.challenger, pointer.digest):
        return served
    return served._replace(challenger=None, split=None)


class SnapshotWatch:
    """A thread that looks at the store of every task, each `poll_s` seconds and a random part of `jitter_s` more."""

    def __init__(
        self,
        holders: Sequence[SnapshotHolder],
        *,
        poll_s: float,
        jitter_s: float = 0.0,
        spread: Callable[[], float] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """`spread`: numbers in [0, 1) that set several servers apart; nothing is drawn from them for a decision. `stop`: what is waited on
        between two looks."""
        self._holders = holders
        self._poll_s, self._jitter_s = poll_s, jitter_s
        self._spread = spread or random.Random().random
        self._stop = stop or threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshot-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; a load that runs is waited for."""
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Waits until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._poll_s + self._jitter_s * self._spread()):
            for holder in self._holders:
                self._look(holder)

    def _look(self, holder: SnapshotHolder) -> None:
        try:
            if holder.refresh():
                _logger.info("task %s: %s decides now", holder.rules.name, holder.served.deciding.digest)
            if holder.refresh_catalogue():
                _logger.info("task %s: catalogue %s is served now", holder.rules.name, holder.rules.catalogue.version)
        except Exception:
            # Whatever it was, the next look comes: a watch that died would serve one snapshot for ever.
            _logger.exception("task %s: the store could not be looked at", holder.rules.name)


def warm_program(spec: PolicySpec, shapes: Shapes) -> None:
    """Compiles a policy's program for every shape, on its prior."""
    params = jax.device_put(jax.jit(build(spec).prepare)(build(spec).init()))
    for slots in shapes.slots:
        for width in shapes.widths:
            for batch in BATCH_BUCKETS:
                run_decide(spec, params, _blank_requests(spec, batch, width), slots=slots)


def _blank_requests(spec: PolicySpec, batch: int, width: int) -> Requests:
    features = np.zeros((batch, width, spec.dims.features), np.float32)
    return Requests.of(np.zeros((batch, spec.dims.context), np.float32), np.zeros(width, np.int32), features=features)
