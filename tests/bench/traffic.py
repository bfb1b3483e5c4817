"""Benchmark of traffic: what experiments, shadows and idle connections cost. One JSON object a line with --json, else a line a figure.

    python tests/bench/traffic.py --json [--only place,select,assign,idle] [--rounds 3] [--seconds 4] [--front native]

The world is that of tests/bench/serving.py: the same task, once as it is and once with experiments, or with a shadow. Loads alternate, and
CPU time of the server by request is what is compared. `idle` opens raw HTTP/2 connections that say nothing (10,000 by default; `ulimit -n`
must allow twice as many) and looks at the p99 of another client's calls before and meanwhile.
"""

import argparse
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import yaml
from peers.figures import Figure, printed
from peers.open_loop import open_loop
from peers.serving_load import Pinned
from peers.serving_world import SERVICE, TASK, checked, world_in

from bandits.allocation import ExperimentState, moved
from protos.log_files import SHADOWS, end_offset
from protos.task import TaskFile

ROOT = Path(__file__).resolve().parents[2]
# This folder's serving.py has the name of the room, which is to be found first.
sys.path.insert(0, str(ROOT))
from serving.tasks import parse_rules  # noqa: E402
from serving.traffic.experiments import Experiments  # noqa: E402

SHAPE = (4, 8)
EXPERIMENTS: dict[str, Any] = {
    "holdout": {"share": 0.05},
    "experiments": {
        "one": {"segments": [0, 5000], "target": "context[0] > 0", "arms": {"a": {"share": 0.5}, "b": {"share": 0.5}}},
        "two": {"segments": [5000, 9000], "arms": {"a": {"share": 0.3}, "b": {"share": 0.3}}},
    },
}
WITH: Mapping[str, dict[str, Any]] = {
    "experiments": EXPERIMENTS,
    "a shadow": {"shadows": {"even": {"policy": {"name": "uniform", "floor": 1.0}}}},
    "a shadow as dear as the champion": {"shadows": {"same": {"serves": "champion"}}},
}
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


def server_with(world: Any, name: str, section: dict[str, Any]) -> Pinned:
    """A server of the world's task with this section `traffic`."""
    folder = world.folder / f"tasks-{name.replace(' ', '-')}"
    folder.mkdir(exist_ok=True)
    (folder / "bench.yaml").write_text(yaml.safe_dump({**TASK, "traffic": section}))
    command = [sys.executable, "-m", "serving", "serve", "--tasks", str(folder), "--store", str(world.folder / "store")]
    command += ["--logs", str(world.folder / f"logs-{folder.name}"), "--address", "127.0.0.1:0", "--threads", "16", "--front", world.front]
    return Pinned([*command, "--compilation-cache", str(ROOT / ".bench" / "xla")], core=world.core)


def placing(rounds: int) -> Iterator[Figure]:
    """CPU time of placing a unit, by itself."""
    task = TaskFile(name="bench", tenant="default", digest="0" * 64, sections={**TASK, "traffic": EXPERIMENTS})
    rules = parse_rules(task)
    standing = {
        name: ExperimentState(moved({}, {arm: found.share for arm, found in experiment.arms.items()}), {}, {})
        for name, experiment in rules.traffic.experiments.items()
    }
    arms = {name for name, _ in rules.traffic.arms()}
    experiments = Experiments(rules.traffic, standing, task="bench", targets=rules.targets, arms=arms)
    context, units = bytes(4 * rules.context_size), [f"member-{number}" for number in range(100_000)]
    times = []
    for _ in range(rounds):
        begun_s = time.process_time()
        for unit in units:
            experiments.place(unit, context)
        times.append((time.process_time() - begun_s) / len(units) * 1e6)
    yield Figure(
        "placing a unit in two experiments with a holdout and a target", float(np.median(times)), "us", None, "lower", rounds=rounds
    )


def beside(world: Any, *, rounds: int, seconds: int) -> Iterator[Figure]:
    """CPU time of the server by Select, with and without."""
    for name, section in WITH.items():
        with world.server(f"plain-{name}".replace(" ", "-"), threads=16) as plain, server_with(world, name, section) as other:
            checked(world, plain)
            pairs = [[world.load(one, "Select", "one", seconds=seconds, shape=SHAPE) for one in (plain, other)] for _ in range(rounds)]
        ratios = [with_it.cpu_us / without.cpu_us for without, with_it in pairs]
        without_us, with_us = (float(np.median([pair[at].cpu_us for pair in pairs])) for at in (0, 1))
        note = f"by round: {', '.join(f'{ratio:.3f}' for ratio in ratios)}"
        if "shadow" in name:
            note += f"; shadow log {end_offset(world.folder / f'logs-tasks-{name.replace(chr(32), chr(45))}' / SHADOWS) >> 10} KiB"
        target = 1.1 * without_us if "shadow" in name else None
        yield Figure(
            f"Select with {name}: CPU a request",
            with_us,
            "us",
            target,
            "lower",
            "without",
            without_us,
            1 / float(np.median(ratios)),
            rounds,
            note,
        )


def assignment(world: Any, *, rounds: int, seconds: int) -> Iterator[Figure]:
    """p99 of Assign with experiments, exposure logged, at 2,000 a second, beside the no-op echo's at the same rate."""
    data = (world.folder / "assign").read_bytes()[5:]
    with server_with(world, "experiments", EXPERIMENTS) as server, world.echo(threads=4) as echo:
        pairs = [
            [
                open_loop(one.address, SERVICE + name, data, rate=2_000.0, seconds=seconds, core=world.load_core)
                for one, name in ((server, "Assign"), (echo, "Select"))
            ]
            for _ in range(rounds)
        ]
    runs, echoes = zip(*pairs, strict=True)
    mine, theirs = (float(np.median([run.p99_ms for run in found])) for found in (runs, echoes))
    note = f"p50 {np.median([run.p50_ms for run in runs]):.2f} ms; failed {sum(run.failed for run in runs)}"
    note += f"; by round: {', '.join(f'{run.p99_ms:.2f}' for run in runs)}"
    title = "Assign with experiments, p99 at 2000/s"
    yield Figure(title, mine, "ms", 5.0, "lower", "no-op echo, same sender", theirs, theirs / mine, rounds, note)


def idle(world: Any, *, rounds: int, seconds: int, connections: int) -> Iterator[Figure]:
    """p99 of calls of one client while others hold connections and say nothing."""
    data = (world.folder / "one").read_bytes()[5:]
    with world.server("idle", threads=16) as server, contextlib.ExitStack() as held:

        def p99() -> float:
            found = [
                open_loop(server.address, SERVICE + "Select", data, rate=500.0, seconds=seconds, core=world.load_core)
                for _ in range(rounds)
            ]
            assert not sum(run.failed for run in found)
            return float(np.median([run.p99_ms for run in found]))

        before, begun_s = p99(), time.monotonic()
        host, _, port = server.address.rpartition(":")
        for _ in range(connections):
            one = held.enter_context(socket.create_connection((host, int(port)), timeout=30))
            one.sendall(_PREFACE)
        opened_s = time.monotonic() - begun_s
        during = p99()
        with grpc.insecure_channel(server.address) as channel:
            assert channel.unary_unary(SERVICE + "Select")(data, timeout=10)
    note = f"opened in {opened_s:.1f} s"
    title = f"Select at 500/s, p99 beside {connections:,} idle connections"
    yield Figure(title, during, "ms", 2 * before, "lower", "p99 before", before, before / during, rounds, note)


def main() -> None:
    """Runs what is asked for, and prints it as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", default="place,select,assign,idle", help="parts to run, separated by commas")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds")
    parser.add_argument("--seconds", type=int, default=4, help="length of one load, seconds")
    parser.add_argument("--connections", type=int, default=10_000, help="idle connections")
    parser.add_argument("--front", default="grpcio", choices=("grpcio", "native"), help="what takes our calls")
    given = parser.parse_args()
    about = {"rounds": given.rounds, "seconds": given.seconds}
    with tempfile.TemporaryDirectory() as scratch:
        world = world_in(Path(scratch), front=given.front)
        for part in given.only.split(","):
            for figure in _part(part, world, about, given):
                printed(figure, as_json=given.json)


def _part(name: str, world: Any, about: dict[str, int], given: argparse.Namespace) -> Iterator[Figure]:
    if name == "place":
        return placing(given.rounds)
    if name == "idle":
        return idle(world, **about, connections=given.connections)
    return {"select": beside, "assign": assignment}[name](world, **about)


if __name__ == "__main__":
    main()
