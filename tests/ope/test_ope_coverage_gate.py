"""The gate's level and power, simulated; and the window of its sequence."""

import json
import math

import numpy as np
import pytest

from ope.__main__ import main
from ope.gate.coverage import CHALLENGER, CHAMPION, CONFIG, DAYS, ROWS_A_DAY, SCENARIOS, Log, is_promoted
from ope.gate.looks import bound
from ope.gate.window import crossing, windowed
from ope.intervals import sequential

WINDOW = {"first": 200, "last": 6_000, "tuned_for": 2_000}


def test_the_sequence_is_crossed_as_often_as_declared_at_any_number_of_looks() -> None:
    """Against 20,000 simulated Brownian motions: 4.2 standard errors of a share of 5 % are 0.65 %; false alarm 3e-5."""
    rng, paths = np.random.default_rng(1), 20_000
    times = np.exp(np.linspace(math.log(200), math.log(6_000), 400))
    value, crossed = np.zeros(paths), np.zeros(paths, bool)
    sequence = windowed(**WINDOW)
    for time, gap in zip(times, np.diff(times, prepend=0.0), strict=True):
        value += rng.normal(size=paths) * math.sqrt(gap)
        crossed |= value > sequence.half_width(round(time), 0.1) * math.sqrt(time)
    # Looks between the 400 would cross a little more often still.
    assert 0.035 < crossed.mean() < 0.05 + 0.0065


def test_the_window_makes_the_sequence_narrower_and_no_narrower_than_one_look() -> None:
    for rows in (200, 1_000, 6_000):
        forever = sequential(tuned_for=2_000).half_width(rows, 0.1)
        assert 1.645 < windowed(**WINDOW).half_width(rows, 0.1) < forever


def test_the_probability_of_crossing_grows_with_the_window_and_the_level() -> None:
    levels = [crossing(level, **WINDOW) for level in (0.01, 0.05, 0.2)]
    windows = [crossing(0.05, first=200, last=last, tuned_for=2_000) for last in (400, 2_000, 6_000)]
    assert levels == sorted(levels) and windows == sorted(windows) and levels[1] == windows[2] < 0.05


def promoted_by_hand(log: Log) -> bool:
    """The deciding rules, spelt out: clustered standard errors, and each end with one more row, the worst that could have come."""
    first, day = log.first, np.arange(len(log.first)) // ROWS_A_DAY
    challenger = np.where(first, CHALLENGER / log.chance, (1 - CHALLENGER) / (1 - log.chance))
    gain = challenger - np.where(first, CHAMPION / log.chance, (1 - CHAMPION) / (1 - log.chance))
    for today in range(DAYS):
        seen = day <= today
        n, units = int(seen.sum()), len(np.unique(log.unit[seen]))
        if challenger[seen].sum() ** 2 / (challenger[seen] ** 2).sum() < CONFIG.min_ess:
            continue
        reach = bound(CONFIG, rows=n).half_width(units, 2 * CONFIG.level)
        reward = log.reward[seen]
        worst, best = (np.where(gain[seen] > 0, *pair) for pair in ((reward.min(), reward.max()), (reward.max(), reward.min())))
        lower = end(log, seen, gain, more=(gain[seen] * worst).min(), reach=-reach)
        if lower > 0:
            return True
        if end(log, seen, gain, more=(gain[seen] * best).max(), reach=reach) <= 0:
            return False
    return False


def end(log: Log, seen: np.ndarray, gain: np.ndarray, *, more: float, reach: float) -> float:
    """Mean of the gains and one more, plus so many standard errors."""
    rows = np.append(gain[seen] * log.reward[seen], more)
    unit = np.append(log.unit[seen].astype(float), -1.0)
    _, place = np.unique(unit, return_inverse=True)
    by_unit = np.bincount(place, weights=rows - rows.mean())
    units = len(by_unit)
    return float(rows.mean() + reach * math.sqrt((by_unit**2).sum() * units / (units - 1)) / len(rows))


JUDGED = [name for name, scenario in SCENARIOS.items() if not scenario.fixed_bound]


def logs(name: str, seeds: range) -> list[Log]:
    return [SCENARIOS[name].log(np.random.default_rng([seed, len(name)]), SCENARIOS[name].gain) for seed in seeds]


@pytest.mark.parametrize("name", JUDGED)
def test_the_whole_gate_promotes_what_its_rules_by_hand_promote(name: str) -> None:
    for log in logs(name, range(7_000, 7_005)):
        assert is_promoted(SCENARIOS[name], log) == promoted_by_hand(log)


# 60 seeds: at a true 5 % more than 12 false promotions have a probability below 1e-4; at a true 80 % fewer than 34 below 1e-4.
@pytest.mark.parametrize("name", JUDGED)
def test_false_promotions_are_rare_and_a_gain_is_found(name: str) -> None:
    promoted = sum(promoted_by_hand(log) for log in logs(name, range(60)))
    assert promoted <= 12 if SCENARIOS[name].asks == "most" else promoted >= 34


@pytest.mark.slow
def test_level_and_power_in_400_seeds_as_the_command_tells_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["coverage", "--gate", "--json"])
    outcomes = {outcome["scenario"]: outcome for outcome in json.loads(capsys.readouterr().out)}
    assert not ended.value.code and outcomes["gain of 3.5 standard errors"]["promoted"] >= 0.80
    # The known-bad case fails, so the simulation can tell: a fixed bound is crossed in 17 % or so.
    assert outcomes["known bad: a fixed bound, daily"]["promoted"] > 0.10


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGED)
def test_level_and_power_by_hand_in_3_000_seeds(name: str) -> None:
    """3 standard errors of a share of 5 % are 1.2 %, of 80 % 2.2 %: false alarm 1e-3. Before one more row was allowed for, rare rewards
    and a rash logger gave 29 %."""
    promoted = np.mean([promoted_by_hand(log) for log in logs(name, range(3_000))])
    assert promoted <= 0.05 + 0.012 if SCENARIOS[name].asks == "most" else promoted >= 0.80 - 0.022
