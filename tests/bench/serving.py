"""Benchmark of serving: one JSON object a line with --json, else a line of text a figure.

    python tests/bench/serving.py --json [--only throughput,open,fixed,alone,assign,restarts,reloads,memory,peers] [--rounds 5]
        [--seconds 3] [--no-peers] [--front native] [--calls 10000000] [--rate 15000]

A request of 1.7 KB: 32 context features, 20 candidates with 16 features each, a slate of three with its propensities, logged before the
reply. Servers run on one core, the load (h2load, of nghttp2) on another; rounds alternate between ours and what it is compared with.
`ratio` is what is better by (above 1 = ours is). Clocks of a busy machine are no verdict: read ratios, and CPU time before wall time.

The no-op echo decodes the same request and builds the same reply on the same grpcio, with its own best number of threads. Ours has no
request id in the request: h2load sends one body over and over, and a repeated id would be answered from memory.
"""

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from peers.figures import Figure, printed
from peers.open_loop import open_loop
from peers.serving_load import Load, framed
from peers.serving_peers import PEERS, Peer, peer_server
from peers.serving_world import BATCH, SERVICE, World, checked, promote, world_in

from bandits.store import Store
from protos.policy_pb2 import SelectRequest

ROOT = Path(__file__).resolve().parents[2]
# Built from serving/front/load.
LOAD = Path(os.environ.get("SLATELOOP_LOAD", ROOT / "serving" / "front" / "target" / "release" / "slateloop-load"))
RATE, LEAK_RATE = 10_000, 15_000
# (connections, streams a connection) of 32 concurrent requests: several may share one read, or none.
SHAPES = ((4, 8), (32, 1))
# Of the no-op echo's requests a second, by what takes our calls.
TARGETS = {("grpcio", shape): 0.55 for shape in SHAPES} | {("native", (4, 8)): 4.0, ("native", (32, 1)): 3.0}
# Of a peer's requests a second, where the native front takes our calls.
NATIVE_TARGETS = {"fastapi": 10.0}
ECHO_THREADS, OUR_THREADS = (4, 8, 16), (16, 32)


def throughput(world: World, *, rounds: int, seconds: int) -> Iterator[Figure]:
    """Unary Select beside the echo, and SelectBatch beside unary; each with its best number of threads."""
    with contextlib.ExitStack() as running:
        echoes = {threads: running.enter_context(world.echo(threads=threads)) for threads in ECHO_THREADS}
        # The native front answers on one thread, however many are there for other calls.
        tried = OUR_THREADS if world.front == "grpcio" else OUR_THREADS[:1]
        ours = {threads: running.enter_context(world.server(f"t{threads}", threads=threads)) for threads in tried}
        for server in ours.values():
            checked(world, server)
        for shape in SHAPES:
            yield from _beside_echo(world, echoes, ours, shape=shape, rounds=rounds, seconds=seconds)
        yield from _batches(world, ours, rounds=rounds, seconds=seconds)


def _beside_echo(
    world: World, echoes: dict[int, Any], ours: dict[int, Any], *, shape: tuple[int, int], rounds: int, seconds: int
) -> Iterator[Figure]:
    ratios, costs, echoed, answered = [], [], [], []
    for _ in range(rounds):
        theirs = max((world.load(server, "Select", "one", seconds=seconds, shape=shape) for server in echoes.values()), key=_rate)
        mine = max((world.load(server, "Select", "one", seconds=seconds, shape=shape) for server in ours.values()), key=_rate)
        ratios.append(mine.rate / theirs.rate)
        costs.append(theirs.cpu_us / mine.cpu_us)
        echoed.append(theirs.rate)
        answered.append(mine.rate)
        assert not mine.failed, mine
    title, note, target = f"Select, {shape[0]} connections x {shape[1]}", f"ratio by round: {_spread(ratios)}", TARGETS[world.front, shape]
    peer = "no-op echo, grpcio " + grpc.__version__
    values = (float(np.median(answered)), "requests/s", target, "higher", peer, float(np.median(echoed)), float(np.median(ratios)))
    yield Figure(title, *values, rounds, note)
    yield Figure(f"{title}, CPU", *values[:1], "echo's CPU / ours", target, "higher", peer, None, float(np.median(costs)), rounds)


def _batches(world: World, ours: dict[int, Any], *, rounds: int, seconds: int) -> Iterator[Figure]:
    ratios, decided = [], []
    for _ in range(rounds):
        unary = max(world.load(server, "Select", "one", seconds=seconds, shape=(4, 8)).rate for server in ours.values())
        batch = max(world.load(server, "SelectBatch", "batch", seconds=seconds, shape=(4, 1)).rate for server in ours.values())
        ratios.append(batch * BATCH / unary)
        decided.append(batch * BATCH)
    value, ratio = float(np.median(decided)), float(np.median(ratios))
    note = f"ratio by round: {_spread(ratios)}"
    yield Figure(f"SelectBatch of {BATCH}", value, "decisions/s", 10.0, "higher", "our unary Select", value / ratio, ratio, rounds, note)


def latency(world: World, *, rounds: int, seconds: int) -> Iterator[Figure]:
    """p99 with Poisson arrivals at half of capacity, from the intended send time."""
    with world.server("open", threads=16) as server:
        capacity = world.load(server, "Select", "one", seconds=seconds, shape=(4, 8)).rate
        about = f"capacity {capacity:.0f}/s; "
        if world.front == "native":
            yield _fast_p99(world, server, rate=capacity / 2, rounds=rounds, seconds=seconds, target=5.0, about=about)
        else:
            yield _p99(world, server, "Select", "one", rate=capacity / 2, rounds=rounds, seconds=seconds, about=about)


def fixed_rate(world: World, *, rounds: int, seconds: int) -> Iterator[Figure]:
    """p99 of Select at 10,000 a second with Poisson arrivals, from the intended send time."""
    with world.server("fixed", threads=16) as server:
        yield _fast_p99(world, server, rate=RATE, rounds=rounds, seconds=seconds, target=2.0)


def _fast_p99(world: World, server: Any, *, rate: float, rounds: int, seconds: int, target: float, about: str = "") -> Figure:
    """By the generator in Rust: one in Python can't send as many. Beside the no-op on the same front, at the same rate by the same sender:
    what is not the decisions'."""
    _need_load()
    with world.echo(threads=4, front="native") as echo:
        pairs = [[_sent(world, one, "one", rate=rate, seconds=seconds) for one in (server, echo)] for _ in range(rounds)]
    runs, echoed = zip(*pairs, strict=True)
    quantiles = ("p50_ms", "p99_ms", "p999_ms")
    mine, theirs = ({name: float(np.median([run[name] for run in found])) for name in quantiles} for found in (runs, echoed))
    note = f"{about}failed {sum(run['failed'] for run in runs)}; p50 {mine['p50_ms']:.2f} ms, p99.9 {mine['p999_ms']:.2f} ms"
    note += f"; no-op: p50 {theirs['p50_ms']:.2f} ms, p99.9 {theirs['p999_ms']:.2f} ms"
    note += f"; 8 connections; p99 by round: {_spread([run['p99_ms'] for run in runs])}"
    values = (mine["p99_ms"], "ms", target, "lower", "no-op, same front", theirs["p99_ms"], theirs["p99_ms"] / mine["p99_ms"])
    return Figure(f"Select, p99 at {rate:,.0f}/s, open loop", *values, rounds, note)


def _need_load() -> None:
    if not LOAD.exists():
        sys.exit(f"serving benchmark: {LOAD} is missing: cargo build --release -p slateloop-load, in serving/front (or set SLATELOOP_LOAD)")


def _sent(world: World, server: Any, body: str, *, rate: float, seconds: float) -> dict[str, Any]:
    """One run of the open-loop generator, eight connections."""
    command = ["taskset", "-c", str(world.load_core), str(LOAD), server.address, SERVICE + "Select", str(world.folder / body)]
    found: dict[str, Any] = json.loads(subprocess.check_output([*command, str(rate), str(seconds), "8"]))
    return found


def alone(world: World, *, rounds: int, seconds: int) -> Iterator[Figure]:
    """One connection, one call at a time: calls a second beside those of the same server on grpcio, which is how long a call takes."""
    other = world._replace(front="grpcio")
    with world.server("alone", threads=16) as server, other.server("alone-grpcio", threads=16) as plain:
        pairs = [
            [one.load(running, "Select", "one", seconds=seconds, shape=(1, 1)).rate for one, running in ((world, server), (other, plain))]
            for _ in range(rounds)
        ]
    mine, theirs = (float(np.median(column)) for column in zip(*pairs, strict=True))
    ratios = [own / grpcio for own, grpcio in pairs]
    note = f"{1e6 / mine:.0f} us a call, grpcio {1e6 / theirs:.0f}; ratio by round: {_spread(ratios)}"
    yield Figure("Select, 1 connection x 1", mine, "requests/s", 1.0, "higher", "on grpcio", theirs, float(np.median(ratios)), rounds, note)


def memory(world: World, *, rounds: int, seconds: int, calls: int, rate: float) -> Iterator[Figure]:
    """What so many calls leave in the server's memory, half of them with a request id of their own, at `rate` a second in so many
    rounds; `seconds` warm it. Where calls were refused, the machine could not do as many, and the memory holds those that wait too."""
    _need_load()
    one = SelectRequest.FromString((world.folder / "one").read_bytes()[5:])
    one.request_id = "@" * 16
    (world.folder / "named").write_bytes(framed(one.SerializeToString()))
    flags = ("--set", "remembered_requests=4096", "--set", "max_concurrent_rpcs=4096", "--set", "log_max_age_s=86400")
    with world.server("memory", threads=16, flags=flags) as server:
        for body in ("one", "named"):
            _sent(world, server, body, rate=rate, seconds=seconds)
        held, sent, failed, grown = server.resident_mib(), 0, 0, []
        for turn in range(rounds):
            run = _sent(world, server, ("one", "named")[turn % 2], rate=rate, seconds=calls / rounds / rate)
            sent += run["calls"]
            failed += run["failed"]
            grown.append(server.resident_mib() - held)
    note = f"{sent:,} calls answered, {failed:,} refused; {held:.0f} MiB before, growth after each of {rounds} parts: {_spread(grown)}"
    yield Figure("Resident memory after many calls", grown[-1], "MiB more", 16.0, "lower", None, None, None, rounds, note)


def assignment(world: World, *, rounds: int, seconds: int) -> Iterator[Figure]:
    """p99 of Assign, which is a hash alone, at 2,000 a second."""
    with world.server("assign", threads=16) as server:
        yield _p99(world, server, "Assign", "assign", rate=2_000.0, rounds=rounds, seconds=seconds)


def _p99(world: World, server: Any, method: str, body: str, *, rate: float, rounds: int, seconds: int, about: str = "") -> Figure:
    """Beside the echo's at the same rate, by the same sender: what is not the server's."""
    data = (world.folder / body).read_bytes()[5:]
    with world.echo(threads=4) as echo:
        pairs = [
            [
                open_loop(one.address, SERVICE + name, data, rate=rate, seconds=seconds, core=world.load_core)
                for one, name in ((server, method), (echo, "Select"))
            ]
            for _ in range(rounds)
        ]
    mine, theirs = zip(*pairs, strict=True)
    note = f"{about}p50 {np.median([run.p50_ms for run in mine]):.2f} ms; failed {sum(run.failed for run in mine)}"
    note += f"; p99 by round: {_spread([run.p99_ms for run in mine])}"
    values = [float(np.median([run.p99_ms for run in runs])) for runs in (mine, theirs)]
    title = f"{method}, p99 at {rate:.0f}/s, open loop"
    return Figure(title, values[0], "ms", 5.0, "lower", "no-op echo, same sender", values[1], values[1] / values[0], rounds, note)


def reloads(world: World, *, rounds: int, seconds: int) -> Iterator[Figure]:
    """p99 at half of capacity while a champion is reloaded every three seconds, beside p99 without; each run at least a minute or a part
    of it that `seconds` gives."""
    store, ratios, moves, failed = Store(world.folder / "store", "bench"), [], [], 0
    with world.server("reloads", threads=16, flags=("--set", "poll_s=0.1")) as server:
        capacity = world.load(server, "Select", "one", seconds=seconds, shape=(4, 8)).rate
        body, length_s = (world.folder / "one").read_bytes()[5:], 20.0 * seconds
        send = functools.partial(open_loop, server.address, SERVICE + "Select", body, rate=capacity / 2, core=world.load_core)
        for _ in range(rounds):
            quiet, stop = send(seconds=length_s / 3), threading.Event()
            moving = threading.Thread(target=_reload_until, args=(store, stop, moves))
            moving.start()
            busy = send(seconds=length_s)
            stop.set()
            moving.join()
            ratios.append(busy.p99_ms / quiet.p99_ms)
            failed += busy.failed
    note = f"{len(moves)} reloads; failed {failed}; by round: {_spread(ratios)}"
    yield Figure("Select, p99 with reloads / without", float(np.median(ratios)), "x", 2.0, "lower", None, None, None, rounds, note)


def _reload_until(store: Store, stop: threading.Event, moves: list[str]) -> None:
    """Every three seconds the champion before becomes the champion again."""
    while not stop.wait(3.0):
        pointer = store.champion()
        assert pointer is not None
        promote(store, pointer.previous)
        moves.append(pointer.previous)


def restarts(world: World, *, rounds: int, seconds: int) -> Iterator[Figure]:
    """From the start of a process to its first answer, on a cache of compiled programs that an earlier one has left."""
    times = []
    with world.server("restart", threads=16):
        pass
    for _ in range(rounds):
        began_s = time.monotonic()
        with world.server("restart", threads=16) as server:
            times.append(time.monotonic() - began_s)
            checked(world, server)
    value, note = float(np.median(times)), f"by round: {_spread(times)}"
    yield Figure("Restart to ready, warm cache", value, "s", 5.0, "lower", None, None, None, rounds, note)


def peers(world: World, *, rounds: int, seconds: int, names: Sequence[str]) -> Iterator[Figure]:
    """Other stacks on the same request and core, each with Vowpal Wabbit behind it."""
    with world.server("peers", threads=32) as server:
        for name in names:
            with peer_server(name, folder=ROOT / ".bench" / "serving", scratch=world.folder, core=world.core, spare=world.load_core) as (
                peer,
                fault,
            ):
                yield _beside_peer(world, server, name, peer, fault, rounds=rounds, seconds=seconds)


def _beside_peer(world: World, server: Any, name: str, peer: Peer | None, fault: str, *, rounds: int, seconds: int) -> Figure:
    title, target = f"Select beside {name}", NATIVE_TARGETS.get(name, PEERS[name].target) if world.front == "native" else PEERS[name].target
    if peer is None:
        return Figure(title, 0.0, "requests/s", target, "higher", name, None, None, 0, fault)
    ratios, mine, theirs = [], [], []
    for _ in range(rounds):
        with peer.server.paused():
            mine.append(world.load(server, "Select", "one", seconds=seconds, shape=(4, 8)).rate)
        with server.paused():
            theirs.append(peer.load(core=world.load_core, seconds=seconds).rate)
        ratios.append(mine[-1] / theirs[-1])
    value, rate, ratio = float(np.median(mine)), float(np.median(theirs)), float(np.median(ratios))
    return Figure(title, value, "requests/s", target, "higher", peer.title, rate, ratio, rounds, f"ratio by round: {_spread(ratios)}")


def _rate(load: Load) -> float:
    return load.rate


def _spread(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def main() -> None:
    """Runs what is asked for, and prints it as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", default="throughput,open,assign,restarts,reloads,peers", help="parts to run, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds")
    parser.add_argument("--seconds", type=int, default=3, help="length of one load, seconds")
    parser.add_argument("--calls", type=int, default=10_000_000, help="calls of the part `memory`, in --rounds parts")
    parser.add_argument("--rate", type=float, default=LEAK_RATE, help="calls a second of the part `memory`: below what the machine can do")
    parser.add_argument("--no-peers", action="store_true", help="install and run no peers")
    parser.add_argument("--front", default="grpcio", choices=("grpcio", "native"), help="what takes our calls")
    parser.add_argument("--peers", default=",".join(PEERS), help="peers to install and run, separated by commas")
    given = parser.parse_args()
    beside = functools.partial(peers, names=given.peers.split(","))
    parts: dict[str, Any] = {"throughput": throughput, "open": latency, "assign": assignment, "peers": beside}
    parts |= {"fixed": fixed_rate, "alone": alone, "restarts": restarts, "reloads": reloads}
    parts["memory"] = functools.partial(memory, calls=given.calls, rate=given.rate)
    with tempfile.TemporaryDirectory() as scratch:
        world = world_in(Path(scratch), front=given.front)
        for part in given.only.split(","):
            if part == "peers" and given.no_peers:
                continue
            for figure in parts[part](world, rounds=given.rounds, seconds=given.seconds):
                printed(figure, as_json=given.json)


if __name__ == "__main__":
    main()
