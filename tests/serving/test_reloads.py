"""Two hundred reloads: memory stays flat, nothing compiles, a rollback is one look away, and servers look at times of their own."""

import gc
import mmap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from bandits.config import TaskPolicy
from bandits.programs import compilations
from bandits.store import Store
from protos.task import load_task
from serving.snapshots import SnapshotHolder, SnapshotWatch
from serving.tasks import parse_rules
from tests.serving.kit import promote, publish

WARM, SOME_MIB = 20, 24


def resident_mib() -> float:
    """What this process holds of the memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read where Linux shows it")
@pytest.mark.parametrize("reloads", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_reloads_leave_the_memory_as_it_was(reloads: int, tasks: Path, store: Store, shop: TaskPolicy) -> None:
    holder = SnapshotHolder(store, parse_rules(load_task(tasks / "shop.yaml")))
    holder.start()
    digests = [publish(store, shop, seed=seed) for seed in range(3)]
    held, compiled = 0.0, 0
    for turn in range(WARM + reloads):
        if turn == WARM:
            held, compiled = resident_mib(), compilations()
        promote(store, digests[turn % len(digests)])
        assert holder.refresh() and holder.served.deciding.digest == digests[turn % len(digests)]
    assert resident_mib() - held < SOME_MIB and compilations() == compiled


def test_the_checker_of_memory_sees_what_is_kept() -> None:
    before = resident_mib()
    # Pages of its own: what the heap had freed before would hold a plain allocation, and nothing would be seen to grow.
    with mmap.mmap(-1, (2 * SOME_MIB) << 20) as kept:
        kept.write(b"\1" * len(kept))
        assert resident_mib() - before > SOME_MIB


class Waits(threading.Event):
    """A stop that comes after so many looks, and remembers for how long each was waited for."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks, self.waited_s = looks, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        if len(self.waited_s) == self._looks:
            return True
        self.waited_s.append(timeout or 0.0)
        return False


class Looked:
    """Counts the looks; the second one fails."""

    looks = 0
    rules = SimpleNamespace(name="shop")

    def refresh(self) -> bool:
        self.looks += 1
        if self.looks == 2:
            raise OSError("the store is away")
        return False

    def refresh_catalogue(self) -> bool:
        return False


def test_each_look_waits_its_own_part_of_the_jitter_and_outlives_a_failure() -> None:
    waits, holder, parts = Waits(4), Looked(), iter([0.0, 0.25, 0.5, 0.999, 0.0])
    SnapshotWatch([holder], poll_s=2.0, jitter_s=8.0, spread=parts.__next__, stop=waits).join()
    assert waits.waited_s == [2.0, 4.0, 6.0, 9.992] and holder.looks == 4


def test_servers_do_not_wait_alike() -> None:
    waited = []
    for _ in range(2):
        waits = Waits(3)
        SnapshotWatch([], poll_s=1.0, jitter_s=30.0, stop=waits).join()
        waited.append(waits.waited_s)
    assert waited[0] != waited[1] and all(1.0 <= part < 31.0 for part in (*waited[0], *waited[1]))


def test_without_jitter_every_look_waits_the_same() -> None:
    waits = Waits(3)
    SnapshotWatch([], poll_s=1.5, stop=waits).join()
    assert waits.waited_s == [1.5] * 3
