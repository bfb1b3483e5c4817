"""The best policy that keeps guardrails and a budget, and what other weights of the outcomes would give. Pure.

    maximise  value(pi)   subject to   lower bound of (outcome_j(pi) - bound_j) >= 0,   cost(pi) <= budget

Each outcome has a black box of its own, so that for any weights the policy is at hand: the largest sum_j (w_j + l_j) tau_j(x, a) -
(1 + l_c) c_a. The multipliers l are raised where a constraint fails, by its lower confidence bound on rows that taught nothing (dual
ascent), and the best policy met on the way that keeps all of them there is taken. Whether it keeps them is judged on the other half.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bandits.errors import ExperimentError
from bandits.personalise.black_box import BlackBox, black_box
from bandits.personalise.config import Guardrail, PersonaliseFile
from bandits.personalise.experiment import Logged
from bandits.personalise.judge import Gain, Judging, judged, mean_and_error
from bandits.personalise.learners import Rows, doubly_robust
from bandits.personalise.own import learners_of
from protos import config

__all__ = ["check_constraints", "constrained_report"]

# One row in so many of the half that trains tells whether constraints hold.
_HELD = 3
_STEPS = 60
# One-sided 95 %.
_Z = 1.6448536269514722


class _Learned(NamedTuple):
    """Black boxes by outcome, learned on some rows, and scores of others by outcome, f64[n, K]."""

    data: Logged
    boxes: Mapping[str, BlackBox]

    def arms(self, x: np.ndarray, weights: Mapping[str, float], cost: float) -> np.ndarray:
        """The arms that weights of outcomes, and a price of costs, make best."""
        total = np.sum([weights[name] * box.model(x) for name, box in self.boxes.items()], axis=0)
        return np.argmax(total - cost * self.data.costs, axis=1)

    def scores(self, chosen: np.ndarray, learned: np.ndarray) -> dict[str, np.ndarray]:
        """Doubly robust scores of the rows `chosen` by outcome models of the rows `learned`."""
        found = {}
        for name, box in self.boxes.items():
            rows = _rows(self.data, name)
            found[name] = doubly_robust(rows.at(chosen), box.outcome_model(rows.at(learned))(self.data.x[chosen]))
        return found


def constrained_report(data: Logged, file: PersonaliseFile, judging: Judging) -> dict[str, Any]:
    """Multipliers, value, gain, and each constraint on the half that judges; and the table of other weights, where the file names any."""
    held, learned = data.train[::_HELD], np.delete(data.train, np.arange(0, len(data.train), _HELD))
    found = _Learned(data, {name: black_box(_rows(data, name).at(learned), learners=learners_of(file)) for name in data.outcomes})
    weights, price, kept = _ascended(found, file, held, found.scores(held, learned))
    report: dict[str, Any] = {}
    if file.guardrails or file.budget is not None:
        arms = found.arms(data.x[data.test], weights, price)
        multipliers = {name: weight - data.weights[name] for name, weight in weights.items()} | {"costs": price - 1.0}
        report["constrained"] = {"multipliers": multipliers, "kept_on_held_out_rows": kept, **_line(data, file, judging, arms)}
    if file.pareto:
        rows = [
            _line(data, file, judging, found.arms(data.x[data.test], _full(data, each), 1.0)) | {"weights": each} for each in file.pareto
        ]
        report["pareto"] = rows
    return report


def _ascended(
    found: _Learned, file: PersonaliseFile, held: np.ndarray, scores: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], float, bool]:
    """Weights with their multipliers, the price of costs, and whether the held rows say that all constraints hold."""
    data, x = found.data, found.data.x[held]
    every = np.sum([data.weights[name] * each for name, each in scores.items()], axis=0) - data.costs
    weights, price = dict(data.weights), 1.0
    best: tuple[float, dict[str, float], float] | None = None
    for step in range(_STEPS):
        arms = found.arms(x, weights, price)
        slack = {name: _low(_slack(scores[name], rail, data, arms)) for name, rail in file.guardrails.items()}
        over = 0.0 if file.budget is None else float(data.costs[arms].mean()) - file.budget
        value = float(every[np.arange(len(arms)), arms].mean())
        if min(slack.values(), default=0.0) >= 0.0 and over <= 0.0 and (best is None or value > best[0]):
            best = value, dict(weights), price
        for name, low in slack.items():
            size = float(scores[name].std()) / np.sqrt(len(arms))
            weights[name] = max(weights[name] - _unit(data, scores) * low / max(size, 1e-300) / (1 + step), data.weights[name])
        price = max(price + 4.0 * over / max(float(np.ptp(data.costs)), 1e-300) / (1 + step) ** 0.5, 1.0)
    return (weights, price, False) if best is None else (best[1], best[2], True)


def _unit(data: Logged, scores: Mapping[str, np.ndarray]) -> float:
    """A weight of the size of those that are declared."""
    return 0.2 * max(abs(weight) for weight in data.weights.values())


def _slack(scores: np.ndarray, rail: Guardrail, data: Logged, arms: np.ndarray) -> np.ndarray:
    """What each row's score lies above the bound by, f64[n]."""
    played = scores[np.arange(len(arms)), arms]
    if rail.arm is None:
        return played - (rail.at_least or 0.0)
    return played - scores[:, data.arms.index(rail.arm)] + rail.margin


def _low(values: np.ndarray) -> float:
    found = mean_and_error(values, None)
    return found.value - _Z * found.error


def _line(data: Logged, file: PersonaliseFile, judging: Judging, arms: np.ndarray) -> dict[str, Any]:
    """Value and gain of a policy on the half that judges, by the declared weights, and whether it is feasible there."""
    each = judged(judging, arms)
    rails = [
        _rail(name, mean_and_error(_slack(judging.outcomes[name], rail, data, arms), judging.cluster))
        for name, rail in file.guardrails.items()
    ]
    cost = float(data.costs[arms].mean())
    within = file.budget is None or cost <= file.budget
    return {
        "value": each.value.value,
        "standard_error": each.value.error,
        "gain": each.gain.value,
        "gain_standard_error": each.gain.error,
        "outcomes": {name: {"value": gain.value, "standard_error": gain.error} for name, gain in each.outcomes.items()},
        "shares": dict(zip(data.arms, each.shares.tolist(), strict=True)),
        "cost": cost,
        "guardrails": rails,
        "feasible": within and all(rail["holds"] for rail in rails),
    }


def _rail(name: str, slack: Gain) -> dict[str, Any]:
    low = slack.value - _Z * slack.error
    return {"outcome": name, "slack": slack.value, "standard_error": slack.error, "lower_bound": low, "holds": low >= 0.0}


def _rows(data: Logged, name: str) -> Rows:
    return Rows(data.x, data.outcomes[name], data.arm, data.propensity, len(data.arms))


def _full(data: Logged, weights: Mapping[str, float]) -> dict[str, float]:
    return {name: weights.get(name, 0.0) for name in data.outcomes}


def check_constraints(data: Logged, file: PersonaliseFile) -> None:
    """Every outcome and arm that a constraint names is there. Raises ExperimentError."""
    named: Sequence[tuple[str, str]] = [
        *(("guardrails", name) for name in file.guardrails), *(("pareto", name) for each in file.pareto for name in each)
    ]  # fmt: skip
    for role, name in named:
        if name not in data.outcomes:
            raise ExperimentError(f"{role}: {name!r} is no outcome of the file; {config.nearest(name, data.outcomes)}")
    for name, rail in file.guardrails.items():
        if rail.arm is not None and rail.arm not in data.arms:
            raise ExperimentError(f"guardrails.{name}.arm: {rail.arm!r} is no arm; {config.nearest(rail.arm, data.arms)}")
