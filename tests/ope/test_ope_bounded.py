"""Intervals of bounded contributions, by the names that commands take: of a value and of a paired difference."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ope import confidence_sequence
from ope.errors import RowsError
from ope.evaluate import compare, evaluate
from ope.interval_names import BOUNDED, interval_of
from ope.rows import Batch, as_logged
from tests.ope.test_ope_commands import run

HIGH = 2.0


def world(seed: int, n: int = 400, units: int | None = None) -> Batch:
    """Two actions at even odds; the target takes the first with 0.8, which earns 0.5 where the other earns 0.3: contributions in [0, 1.6].

    The truth is 0.46, and 0.06 above the log.
    """
    rng = np.random.default_rng([4, seed])
    first = rng.random(n) < 0.5
    reward = (rng.random(n) < 0.3 + 0.2 * first).astype(float)
    unit = None if units is None else rng.permutation(np.arange(n, dtype=np.uint64) % np.uint64(units))
    return Batch(reward[:, None], np.where(first, 1.6, 0.4)[:, None], unit=unit)


@pytest.mark.parametrize("name", BOUNDED)
def test_they_hold_at_small_samples_for_a_value_and_a_difference(name: str) -> None:
    """300 logs of 400 rows at 90 %: fewer than 92 % hold with probability below 1e-6 if they hold as often as they do (99 % or more)."""
    interval, held, width = interval_of(name, span=(0.0, HIGH)), np.zeros(2), np.zeros(2)
    for seed in range(300):
        batch = world(seed)
        one = compare([(batch, as_logged(batch))], names=["ips"], level=0.1, interval=interval)["ips"]
        for at, (estimate, truth) in enumerate(((one.challenger, 0.46), (one.difference, 0.06))):
            held[at] += estimate.lower <= truth <= estimate.upper
            width[at] += (estimate.upper - estimate.lower) / 300
    assert (held >= 276).all() and (width < 0.6).all()


def test_the_mixture_is_the_sequence_of_the_rows_in_their_order_however_the_log_is_cut() -> None:
    batch = world(0, n=5_000)
    interval = interval_of("predictable_mixture", span=(0.0, HIGH))
    cut = [Batch(*(None if a is None else a[part] for a in batch)) for part in (slice(700), slice(700, None))]
    found = evaluate(cut, names=["ips"], interval=interval)["ips"]
    state = confidence_sequence.begin(low=0.0, high=HIGH, level=0.05)
    wanted = confidence_sequence.ends(confidence_sequence.extend(state, (batch.weight * batch.reward)[:, 0]))
    assert (found.lower, found.upper) == pytest.approx(wanted, rel=1e-9)
    both = compare([(half, as_logged(half)) for half in cut], names=["ips"], interval=interval)["ips"].difference
    state = confidence_sequence.begin(low=-HIGH, high=HIGH, level=0.05)
    apart = ((batch.weight - 1) * batch.reward)[:, 0]
    assert (both.lower, both.upper) == pytest.approx(confidence_sequence.ends(confidence_sequence.extend(state, apart)), rel=1e-9)


def test_units_are_one_contribution_each() -> None:
    batch = world(1, n=600, units=150)
    found = evaluate([batch], names=["ips"], interval=interval_of("predictable_mixture", span=(0.0, HIGH)))["ips"]
    total = np.bincount(batch.unit.astype(np.int64), (batch.weight * batch.reward)[:, 0]) / 4
    state = confidence_sequence.begin(low=0.0, high=HIGH, level=0.05)
    assert (found.lower, found.upper) == pytest.approx(confidence_sequence.ends(confidence_sequence.extend(state, total)), rel=1e-9)


def test_bernstein_is_its_formula_and_twice_the_span_for_a_difference() -> None:
    batch, log = world(2), math.log(4 / 0.05)
    one = compare([(batch, as_logged(batch))], names=["ips"], interval=interval_of("empirical_bernstein", span=(0.0, HIGH)))["ips"]
    for estimate, span in ((one.challenger, HIGH), (one.difference, 2 * HIGH)):
        reach = estimate.standard_error * math.sqrt(2 * log) + 7 * span * log / (3 * 399)
        assert estimate.upper - estimate.value == pytest.approx(reach) and estimate.interval == "empirical Bernstein"


def test_a_span_that_is_missing_wrong_or_not_asked_for_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in BOUNDED:
        with pytest.raises(RowsError, match=f"--span: not given; interval '{name}' needs LOW HIGH"):
            interval_of(name)
        with pytest.raises(RowsError, match=r"bounds are \[2.0, 1.0\]; give finite ones, low < high"):
            interval_of(name, span=(2.0, 1.0))
    with pytest.raises(RowsError, match="--span 0 1: interval 'student-t' asks for none"):
        interval_of("student-t", span=(0.0, 1.0))
    batch = world(3)
    with pytest.raises(RowsError, match=r"is 1\.[56]\d*; it must lie in the span \[0\.0, 1\.5\]: widen the span"):
        evaluate([batch], names=["ips"], interval=interval_of("predictable_mixture", span=(0.0, 1.5)))
    pl.DataFrame({"reward": batch.reward[:, 0], "w": batch.weight[:, 0]}).write_parquet(tmp_path / "log.parquet")
    for command, part in (("evaluate", "estimates"), ("compare", "comparisons")):
        asked = [
            command,
            "--log",
            str(tmp_path / "log.parquet"),
            "--weight",
            "w",
            "--estimator",
            "ips",
            "--interval",
            "predictable_mixture",
        ]
        code, out, _ = run(capsys, *asked, "--span", "0", "2", "--json")
        found = json.loads(out)[part]["ips"]
        assert code == 0 and "predictable-mixture" in json.dumps(found)
        code, out, err = run(capsys, *asked)
        assert code == 2 and err.startswith("error: --span: not given")
