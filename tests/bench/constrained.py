"""Benchmark of constrained Thompson sampling: violations and reward beside plain Thompson sampling; one JSON object a line with --json.

    python tests/bench/constrained.py --json [--seeds 40] [--rounds 2000] [--learn-every 1]

6 actions, 5 features, the world `tradeoff` (what earns more is less safe), alpha 0.05; the first 200 rounds are even chance for every
policy, and the figures are over the others. A round violates where the expected safety of what was played is below 95 % of the
baseline's at the same context. The peer is plain Thompson sampling on the same seeds, contexts and models; nothing is installed, for no
package serves a constrained one. A feasible oracle knows both outcomes' expectations.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from peers.figures import Figure, printed

from bandits.catalog import PolicySpec
from bandits.simulation.run import History, simulate
from bandits.simulation.tradeoff import SAFETY, TradeoffSettings, tradeoff

ALPHA, EVEN_ROUNDS = 0.05, 200
# A share of plain Thompson sampling's violations, and of the feasible oracle's reward.
VIOLATIONS_TARGET, REWARD_TARGET = 1 / 8, 0.98
CONSTRAINED = {"baseline": {"action": 0}, "constraints": [{"outcome": SAFETY, "alpha": ALPHA}]}
PLAIN = "linear_thompson (this library)"


class Came(NamedTuple):
    """What came of a policy, by seed: share of rounds that violate, and reward as a share of the feasible oracle's."""

    violations: np.ndarray
    reward: np.ndarray
    # The same share over the rounds that did not violate: what was earned honestly.
    feasible_reward: np.ndarray


def came(history: History) -> Came:
    """The figures of the rounds after the even start."""
    value, best, violated = (column[:, EVEN_ROUNDS:] for column in (history.value, history.best, history.violated))
    kept = np.where(violated, 0.0, 1.0)
    return Came(violated.mean(axis=1), value.sum(axis=1) / best.sum(axis=1), (kept * value).sum(axis=1) / (kept * best).sum(axis=1))


def played(name: str, settings: Mapping[str, Any], *, floor: float, given: argparse.Namespace) -> Came:
    """A policy over all seeds."""
    world = tradeoff(TradeoffSettings(alpha=ALPHA))
    start = [{"name": "even_start", "rows": EVEN_ROUNDS}]
    spec = PolicySpec.of(name, settings, floor=floor, dims=world.dims, wrappers=start)
    return came(simulate(world, spec, rounds=given.rounds, seeds=range(given.seeds), learn_every=given.learn_every))


def figures(given: argparse.Namespace) -> Iterator[Figure]:
    """Violations and reward, with no floor and with the one that tasks have by default; strict mode beside them."""
    plain = {floor: played("linear_thompson", {"basis": "linear"}, floor=floor, given=given) for floor in (0.0, 0.05)}
    for floor, peer in plain.items():
        yield from _beside(f"constrained, floor {floor}", played("constrained_thompson", CONSTRAINED, floor=floor, given=given), peer)
    strict = played("constrained_thompson", {**CONSTRAINED, "strict": 0.05}, floor=0.0, given=given)
    yield from _beside("strict 0.05, floor 0.0", strict, plain[0.0], targets=(None, None))


def _beside(
    title: str, mine: Came, plain: Came, *, targets: tuple[float | None, float | None] = (VIOLATIONS_TARGET, REWARD_TARGET)
) -> Iterator[Figure]:
    seeds = len(mine.violations)
    violations, peer = float(mine.violations.mean()), float(plain.violations.mean())
    limit = None if targets[0] is None else targets[0] * peer
    note = f"worst seed {mine.violations.max():.4f}; target is {VIOLATIONS_TARGET} of the peer's"
    yield Figure(f"rounds that violate, {title}", violations, "share", limit, "lower", PLAIN, peer, peer / violations, seeds, note)
    reward = float(mine.reward.mean())
    note = f"worst seed {mine.reward.min():.4f}; in rounds that do not violate {mine.feasible_reward.mean():.4f}"
    yield Figure(
        f"reward, {title}", reward, "share of the feasible oracle's", targets[1], "higher", "feasible oracle", 1.0, reward, seeds, note
    )


def main() -> None:
    """Prints the figures as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2_000)
    parser.add_argument("--learn-every", type=int, default=1, help="decisions between two updates")
    given = parser.parse_args()
    for figure in figures(given):
        printed(figure, as_json=given.json)


if __name__ == "__main__":
    main()
