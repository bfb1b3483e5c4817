"""Benchmark of the Python clients: does it pay that selects which wait at the same time travel in one call?

    python tests/bench/clients.py --json [--rounds 5] [--seconds 2]

One JSON object a line with --json, else a line of text a figure. `serving serve` runs in a process of its own, on grpcio; one event loop
asks with so many coroutines at once, gathered and each select by itself, in rounds that alternate. Read ratios, and the client's CPU time
before wall time: both ends may share a core.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import grpc  # noqa: E402
from peers.figures import Figure, printed  # noqa: E402

from serving.client import AsyncPolicyClient  # noqa: E402
from serving.new_task import task_text  # noqa: E402
from tests.serving.kit import Process  # noqa: E402

CONTEXT = {"hour": 9.0, "device": "phone"}


class Round(NamedTuple):
    """CPU microseconds of the client a select, and selects a second."""

    cpu_us: float
    per_s: float


async def one_round(address: str, *, callers: int, gather: bool, seconds: float) -> Round:
    """Callers that ask one after the other, all on one event loop."""
    async with AsyncPolicyClient(address, gather=gather) as client:
        await client.select("bench", unit_id="u", context=CONTEXT)
        asked, ends = 0, time.perf_counter() + seconds
        cpu_s, began = time.process_time(), time.perf_counter()

        async def ask(unit: str) -> None:
            nonlocal asked
            while time.perf_counter() < ends:
                await client.select("bench", unit_id=unit, context=CONTEXT)
                asked += 1

        await asyncio.gather(*[ask(f"u{number}") for number in range(callers)])
        return Round((time.process_time() - cpu_s) / asked * 1e6, asked / (time.perf_counter() - began))


def figures(address: str, *, rounds: int, seconds: float) -> Iterator[Figure]:
    """Gathered against each by itself, by the number of callers."""
    for callers in (1, 8, 64):
        taken: dict[bool, list[Round]] = {True: [], False: []}
        for number in range(2 * rounds):
            gather = number % 2 == 0
            taken[gather].append(asyncio.run(one_round(address, callers=callers, gather=gather, seconds=seconds)))
        for name, better, unit in (("cpu_us", "lower", "us a select"), ("per_s", "higher", "a second")):
            ours, alone = (statistics.median(getattr(found, name) for found in taken[gather]) for gather in (True, False))
            ratio = alone / ours if better == "lower" else ours / alone
            title = f"asyncio client, {callers} callers: {name}"
            yield Figure(
                title, ours, unit, None, better, "each select in a call of its own", alone, ratio, rounds, f"grpcio {grpc.__version__}"
            )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each kind")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tasks").mkdir()
        (folder / "tasks" / "bench.yaml").write_text(task_text("bench", actions=["a", "b", "c"]))
        server = Process(folder, folder / "tasks", Path("~/.cache/slateloop/xla").expanduser())
        try:
            for figure in figures(server.start(), rounds=given.rounds, seconds=given.seconds):
                printed(figure, as_json=given.json)
        finally:
            if server.lives:
                server.end(signal.SIGKILL)


if __name__ == "__main__":
    main()
