"""Does the gate keep its level, and does it promote what is better? Simulated contests, judged by the gate itself, a look a day. Pure.

Two actions, rewards of 0 and 1, and a challenger that takes the first action in 80 % of cases where the champion takes it in half. Without
gain both actions earn alike, so that every promotion is false.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ope.gate.config import GateConfig
from ope.gate.decide import gate
from ope.gate.evidence import Contest, JudgedRows, Setting, evidence_of
from ope.rows import Floats, Keys

__all__ = ["CHALLENGER", "CHAMPION", "CONFIG", "DAYS", "ROWS_A_DAY", "SCENARIOS", "Log", "Outcome", "Scenario", "is_promoted", "simulate"]

DAYS = 30
ROWS_A_DAY = 200
_UNITS = 500
CHALLENGER, CHAMPION, _MEAN = 0.8, 0.5, 0.3
# Gain, in standard errors at the last look, at which power is asked for.
_GAIN_IN_ERRORS = 3.5
# A logger that learns takes no action less often than this; a rash one, in a world of rare rewards, than that.
_FLOOR, _RASH_FLOOR, _RARE_MEAN = 0.1, 0.02, 0.05
# Standard errors that a simulated share may be beyond the asked one.
_CHANCE = 3.0
# Rewards of a unit's own level, standard deviation over units.
_UNIT_SPREAD = 0.15
CONFIG = GateConfig(
    estimator="rips", min_rows=ROWS_A_DAY, max_rows=DAYS * ROWS_A_DAY, min_ess=ROWS_A_DAY, veto_ess=ROWS_A_DAY / 4, anchor=""
)
_CONTEST = Contest("simulated", "c", "a", "change", "", generation=1, training_watermark_us=0, config_digest="")


class Log(NamedTuple):
    """A simulated log: reward f64[n], whether the first action was taken bool[n], its probability f64[n], unit u64[n]."""

    reward: Floats
    first: np.ndarray
    chance: Floats
    unit: Keys


class Scenario(NamedTuple):
    """What is simulated: the gain of the first action, the log of a seed, and what share of promotions is asked for."""

    gain: float
    log: Callable[[np.random.Generator, float], Log]
    # "most": promotions are false, at most so many; "least": they are right, at least so many.
    asks: str
    share: float
    # A two-sided 5 % interval of a single look, taken every day: the known-bad case.
    fixed_bound: bool = False


class Outcome(NamedTuple):
    """Share of the seeds in which the challenger was promoted at any of the looks, and whether that is what was asked for."""

    scenario: str
    seeds: int
    promoted: float
    asks: str
    share: float

    @property
    def error(self) -> float:
        """Standard error of the share of so many contests, if the asked share were the true one."""
        return math.sqrt(self.share * (1 - self.share) / self.seeds)

    @property
    def kept(self) -> bool:
        """Whether the asked share was kept, but for what chance explains: 3 standard errors, a false alarm in 700."""
        beyond = self.promoted - self.share if self.asks == "most" else self.share - self.promoted
        return beyond <= _CHANCE * self.error


def simulate(name: str, *, seeds: int, first_seed: int = 0) -> Outcome:
    """Runs a scenario for `seeds` seeds, >= 1, from `first_seed` on."""
    scenario = SCENARIOS[name]
    rngs = (np.random.default_rng([first_seed + seed, len(name)]) for seed in range(seeds))
    promoted = sum(is_promoted(scenario, scenario.log(rng, scenario.gain)) for rng in rngs)
    return Outcome(name, seeds, promoted / seeds, scenario.asks, scenario.share)


def is_promoted(scenario: Scenario, log: Log) -> bool:
    """Whether the gate promotes the challenger at one of the daily looks at a log."""
    config = CONFIG.model_copy(update={"looks": 1}) if scenario.fixed_bound else CONFIG
    for day in range(1, DAYS + 1):
        # A fixed bound is one that believes each look to be the last.
        complete = scenario.fixed_bound or day == DAYS
        decision = _look(log, day * ROWS_A_DAY, config, complete=complete)
        if decision == "promote":
            return True
        if decision in ("hold", "veto") and not scenario.fixed_bound:
            return False
    return False


def _look(log: Log, n: int, config: GateConfig, *, complete: bool) -> str:
    first, chance = log.first[:n], log.chance[:n]
    rows = JudgedRows(
        decision_time_us=np.arange(1, n + 1, dtype=np.int64),
        unit=log.unit[:n],
        reward=log.reward[:n, None],
        challenger=_weight(CHALLENGER, first, chance),
        champion=_weight(CHAMPION, first, chance),
        unsupported=np.zeros(n, bool),
        excluded={},
    )
    return gate(evidence_of(_CONTEST, rows, estimators=("rips",), setting=Setting(complete=complete, now_us=n)), config).decision


def _weight(target: float, first: np.ndarray, chance: Floats) -> Floats:
    return np.where(first, target / chance, (1 - target) / (1 - chance))[:, None]


def _independent(rng: np.random.Generator, gain: float) -> Log:
    """Rows of units that never return, logged at even odds."""
    n = DAYS * ROWS_A_DAY
    first = rng.random(n) < CHAMPION
    return Log(_rewards(rng, _MEAN + gain * first), first, np.full(n, CHAMPION), np.arange(n, dtype=np.uint64))


def _returning(rng: np.random.Generator, gain: float) -> Log:
    """Rows of 500 units that come again and again, each with a level of its own, and keep the action that was drawn for them."""
    n = DAYS * ROWS_A_DAY
    unit = rng.integers(0, _UNITS, n)
    first, level = (rng.random(_UNITS) < CHAMPION)[unit], rng.normal(0, _UNIT_SPREAD, _UNITS)[unit]
    chance = np.clip(_MEAN + gain * first + level, 0, 1)
    return Log(_rewards(rng, chance), first, np.full(n, CHAMPION), unit.astype(np.uint64))


def _retrained(rng: np.random.Generator, gain: float) -> Log:
    """A logger that each day learns from all of its log, and is promoted: it takes the first action the more the better that looks."""
    return _learned(rng, _MEAN, gain, lambda wins, tries: _between(_FLOOR, _thompson(wins, tries)))


def _rash(rng: np.random.Generator, gain: float) -> Log:
    """The same where rewards are rare, and the logger takes what looks better wherever it may: rare rows have large weights."""
    return _learned(rng, _RARE_MEAN, gain, lambda wins, tries: _between(_RASH_FLOOR, float(np.diff(wins / tries)[0] > 0)))


def _learned(rng: np.random.Generator, mean: float, gain: float, learn: Callable[[np.ndarray, np.ndarray], float]) -> Log:
    """`learn`: wins and tries of the second and the first action so far -> how often the first is taken on the next day."""
    days: list[Log] = []
    wins, tries, chance = np.ones(2), np.full(2, 2.0), CHAMPION
    for day in range(DAYS):
        first = rng.random(ROWS_A_DAY) < chance
        reward = _rewards(rng, mean + gain * first)
        unit = np.arange(day * ROWS_A_DAY, (day + 1) * ROWS_A_DAY, dtype=np.uint64)
        days.append(Log(reward, first, np.full(ROWS_A_DAY, chance), unit))
        wins += (reward[~first].sum(), reward[first].sum())
        tries += ((~first).sum(), first.sum())
        chance = learn(wins, tries)
    return Log(*(np.concatenate(column) for column in zip(*days, strict=True)))


def _between(floor: float, chance: float) -> float:
    return min(max(chance, floor), 1 - floor)


def _thompson(wins: np.ndarray, tries: np.ndarray) -> float:
    """Probability that the first action is the better one, by normal posteriors."""
    mean = wins / tries
    spread = math.sqrt(float((mean * (1 - mean) / tries).sum()))
    return 0.5 * (1 + math.erf(float(mean[1] - mean[0]) / spread / math.sqrt(2)))


def _rewards(rng: np.random.Generator, chance: np.ndarray) -> Floats:
    return (rng.random(len(chance)) < chance).astype(np.float64)


def _gain() -> float:
    """Gain of the first action at which the difference is _GAIN_IN_ERRORS standard errors at the last look, by fixed-point iteration."""
    gain, tilt = 0.0, CHALLENGER - CHAMPION
    for _ in range(50):
        # The paired row is (w - 1) r, with w - 1 = +-0.6, and r = 0 or 1.
        second = (tilt / CHAMPION) ** 2 * (_MEAN + gain * CHAMPION)
        error = math.sqrt((second - (tilt * gain) ** 2) / (DAYS * ROWS_A_DAY))
        gain = _GAIN_IN_ERRORS * error / tilt
    return gain


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "independent rows": Scenario(0.0, _independent, "most", 0.05),
        "500 returning units": Scenario(0.0, _returning, "most", 0.05),
        "logger retrained daily": Scenario(0.0, _retrained, "most", 0.05),
        "rare rewards, a rash logger retrained daily": Scenario(0.0, _rash, "most", 0.05),
        "gain of 3.5 standard errors": Scenario(_gain(), _independent, "least", 0.80),
        "known bad: a fixed bound, daily": Scenario(0.0, _independent, "most", 0.05, fixed_bound=True),
    }
)
