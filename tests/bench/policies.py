"""Benchmark of the policies: reward, usable logs, speed, regret; one JSON object a line with --json, else a line of text a figure.

    python tests/bench/policies.py --json [--data FOLDER] [--only reward,speed,...] [--no-peers]

FOLDER holds segment.csv.gz, satimage.csv.gz and mushroom.csv.gz (UCI); without it, digits alone are run. Peers are installed into
`.bench/policies`, an environment of their own, and run in processes of their own, on the same rows, in rounds that alternate with ours.
`value` is ours, `peer_value` theirs, `ratio` what is better by (above 1 = ours is). Clocks of a busy machine are no verdict: read ratios.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers import our_policies as ours
from peers.figures import Figure, printed
from peers.workers import Worker, installed

from bandits.catalog import CATALOG, PolicySpec
from bandits.simulation.environment import Environment
from bandits.simulation.linear import DriftingSettings, drifting
from bandits.simulation.run import simulate
from bandits.simulation.wheel import WheelSettings, wheel

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("vowpalwabbit", "river", "mabwiser", "contextualbandits")
REWARD_PEERS = ("vowpalwabbit", "river", "mabwiser", "numpy")
SPEED_PEERS = ("vowpalwabbit", "mabwiser", "contextualbandits")
REWARD_TARGETS = {"digits": 0.77, "segment": 0.87, "satimage": 0.80}
SHUFFLES, LOG_SHUFFLES, SPEED_ROUNDS = 5, 20, 7
# (name, rows a call, calls a round, target in us)
DECISIONS = (("decide, batch of 256, us a decision", 256, 20, 10.0), ("decide alone, us a decision", 1, 300, 100.0))
UPDATE_ROWS, UPDATE_TARGET_US = 10_000, 1.0


def against(figure: Figure, peers: Mapping[str, Sequence[Any]]) -> Iterator[Figure]:
    """The figure beside each peer, whose answers are given by round; alone where there is none."""
    if not peers:
        yield figure
    for name, answers in peers.items():
        values = [answer.value for answer in answers if not answer.error]
        if len(values) < len(answers) or not values:
            yield figure._replace(peer=name, note=next((answer.error for answer in answers if answer.error), "no answer"))
            continue
        theirs = float(np.mean(values) if figure.better == "higher" else np.median(values))
        ratio = figure.value / theirs if figure.better == "higher" else theirs / figure.value
        yield figure._replace(peer=name, peer_value=theirs, ratio=ratio)


def rewards(sets: ours.Sets, workers: Sequence[Worker], folder: Path) -> Iterator[Figure]:
    """Mean reward of one pass over five shuffles; after each shuffle of ours, the peers' same shuffle."""
    for name, rows in sets.reward.items():
        n = len(rows.label)
        orders = {f"order_{seed}": np.random.default_rng(seed).permutation(n)[:5_000] for seed in range(SHUFFLES)}
        file = folder / f"{name}.npz"
        np.savez(file, context=rows.context, label=rows.label, **orders)
        run, values, told = ours.one_pass(rows), [], {worker: [] for worker in workers}
        for seed in range(SHUFFLES):
            values.append(float(run(range(seed, seed + 1)).earned.mean()))
            for worker, answers in told.items():
                answers.append(worker.ask("reward", file=str(file), seed=seed))
        target, mean = REWARD_TARGETS[name], float(np.mean(values))
        figure = Figure(f"mean reward, {name}", mean, "reward a decision", target, "higher", None, None, None, SHUFFLES)
        yield from against(figure, {worker.title: answers for worker, answers in told.items()})


def logs(sets: ours.Sets) -> Iterator[Figure]:
    """Error of the uniform policy's IPS value from our own logs, and the standard error that it must be within three of."""
    for name, rows in sets.reward.items():
        classes = len(rows.classes)
        found = ours.history(rows, ours.right_class(classes), rounds=min(5_000, len(rows.label)), seeds=range(LOG_SHUFFLES), learn_every=5)
        error, spread = ours.uniform_error(found, classes)
        note = f"standard error {spread:.4f}; {'within' if abs(error) <= 3 * spread else 'OUTSIDE'} 3 of them; learned every 5 decisions"
        yield Figure(f"IPS error of uniform, {name}", abs(error), "share of the truth", 0.05, "lower", None, None, None, LOG_SHUFFLES, note)


def mushroom(sets: ours.Sets) -> Iterator[Figure]:
    """Total reward of 2,000 mushrooms."""
    if sets.mushroom is not None:
        found = ours.history(sets.mushroom, ours.MUSHROOM, rounds=2_000, seeds=range(SHUFFLES))
        total = float(found.earned.sum(axis=1).mean())
        note = "published, one run each: linear full posterior 4,365, neural-linear 4,110, uniform -4,930, optimum 5,235"
        yield Figure("total reward, mushroom", total, "reward", 4_000.0, "higher", None, None, None, SHUFFLES, note)


def speed(workers: Sequence[Worker], folder: Path) -> Iterator[Figure]:
    """20 actions, 32 features. Ours draws slates of three and gives their propensities; the peers choose one action."""
    rng, n = np.random.default_rng(0), UPDATE_ROWS
    columns = {"context": rng.normal(size=(n, ours.FEATURES)), "action": rng.integers(0, ours.ACTIONS, n), "reward": rng.random(n)}
    file = folder / "speed.npz"
    np.savez(file, **columns)
    mine, request = ours.Speed(columns), {"file": str(file), "actions": ours.ACTIONS}
    for name, rows, repeats, target in DECISIONS:
        values, told = [], {worker: [] for worker in workers}
        for _ in range(SPEED_ROUNDS):
            values.append(mine.decide(rows, repeats=repeats))
            for worker, answers in told.items():
                answers.append(worker.ask("decide", rows=rows, repeats=max(repeats // 10, 1), **request))
        yield from _timed(name, values, told, target)
    values, told = [], {worker: [] for worker in workers}
    for _ in range(SPEED_ROUNDS):
        values.append(mine.update(n))
        for worker, answers in told.items():
            answers.append(worker.ask("update", rows=n, **request))
    yield from _timed(f"update, {n} rows, us a row", values, told, UPDATE_TARGET_US)


def _timed(name: str, values: Sequence[float], told: Mapping[Worker, Sequence[Any]], target: float) -> Iterator[Figure]:
    figure = Figure(name, ours.median(values), "us", target, "lower", None, None, None, SPEED_ROUNDS)
    yield from against(figure, {worker.title: answers for worker, answers in told.items()})


def regret() -> Iterator[Figure]:
    """Total regret of the variants that ought to win, beside the plain policy as their peer."""
    turning = drifting(DriftingSettings(actions=5, features=5, period=2_000))
    discounted = {"wrappers": [{"name": "discount", "half_life_s": 150.0}]}
    yield from _regret_of("drifting, discounted", turning, "linear_thompson", discounted, rounds=4_000)
    if "neural_linear" in CATALOG:
        yield from _regret_of("wheel 0.95, neural_linear", wheel(WheelSettings(delta=0.95)), "neural_linear", {}, rounds=2_000)


def _regret_of(title: str, world: Environment, policy: str, changes: dict[str, Any], *, rounds: int) -> Iterator[Figure]:
    def total(name: str, given: dict[str, Any]) -> float:
        spec = PolicySpec.of(name, {}, floor=ours.DEFAULT_FLOOR, dims=world.dims, **given)
        found = simulate(world, spec, rounds=rounds, seeds=range(10), learn_every=10)
        return float((found.best - found.value).sum(axis=1).mean())

    value, plain = total(policy, changes), total("linear_thompson", {})
    yield Figure(f"regret, {title}", value, f"reward in {rounds} decisions", plain, "lower", "linear_thompson", plain, plain / value, 10)


def main() -> None:
    """Runs what is asked for, and prints it as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--data", type=Path, help="folder with segment, satimage and mushroom as .csv.gz")
    parser.add_argument("--only", default="reward,logs,mushroom,speed,regret", help="parts to run, separated by commas")
    parser.add_argument("--no-peers", action="store_true", help="install and run no peers")
    given = parser.parse_args()
    parts, sets = given.only.split(","), ours.sets_of(given.data)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        workers = {} if given.no_peers else _workers(stack)
        kinds = {
            "reward": lambda: rewards(sets, [workers[name] for name in REWARD_PEERS if name in workers], Path(scratch)),
            "logs": lambda: logs(sets),
            "mushroom": lambda: mushroom(sets),
            "speed": lambda: speed([workers[name] for name in SPEED_PEERS if name in workers], Path(scratch)),
            "regret": regret,
        }
        for part in parts:
            for figure in kinds[part]():
                printed(figure, as_json=given.json)


def _workers(stack: contextlib.ExitStack) -> dict[str, Worker]:
    python, faults = installed(PACKAGES, folder=ROOT / ".bench" / "policies")
    for package, fault in faults.items():
        print(f"peers: {package} cannot be installed: {fault}", file=sys.stderr, flush=True)
    names = [name for name in dict.fromkeys((*REWARD_PEERS, *SPEED_PEERS)) if name not in faults]
    return {name: stack.enter_context(Worker(python, name)) for name in names}


if __name__ == "__main__":
    main()
