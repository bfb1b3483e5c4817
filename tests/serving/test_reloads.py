"""Two hundred reloads: memory stays flat, nothing compiles, and a rollback is one look away."""

import gc
from pathlib import Path

import pytest

from bandits.config import TaskPolicy
from bandits.programs import compilations
from bandits.store import Store
from protos.task import load_task
from serving.snapshots import SnapshotHolder
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
    kept = [bytearray(1 << 20) for _ in range(2 * SOME_MIB)]
    assert resident_mib() - before > SOME_MIB and len(kept) == 2 * SOME_MIB
