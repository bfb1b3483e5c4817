"""Means per impression: a ratio of what was earned to what was seen, both as the target policy would have had them."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ope.errors import RowsError
from ope.evaluate import compare, evaluate, on_policy_mean
from ope.rows import Batch, as_logged
from tests.ope.slow_reference import example
from tests.ope.test_ope_commands import run

NAMES = {1: ("ips", "clipped_ips:2"), 3: ("rips", "sips", "iips")}


def rows(slots: int, units: int | None) -> Batch:
    batch = example(seed=7, rows=150, slots=slots, units=units)
    seen = (np.random.default_rng(3).random((150, slots)) < 0.4).astype(float)
    return batch._replace(seen=seen)


def weight_of(name: str, batch: Batch, row: int) -> list[float]:
    weight = [float(w) for w in getattr(batch, "marginal_weight" if name == "iips" else "weight")[row]]
    return [weight[-1]] * len(weight) if name == "sips" else [min(w, 2.0) for w in weight] if name.startswith("clipped") else weight


def slow(name: str, batch: Batch) -> tuple[float, np.ndarray]:
    """The ratio and each row's influence on it, one row at a time; a row of which nothing was seen adds nothing."""
    top, bottom = np.zeros(len(batch.reward)), np.zeros(len(batch.reward))
    for row in range(len(batch.reward)):
        if batch.seen[row].any():
            for w, r, s in zip(weight_of(name, batch, row), batch.reward[row], batch.seen[row], strict=True):
                top[row] += w * r
                bottom[row] += w * s
    value = top.sum() / bottom.sum()
    return value, (top - value * bottom) / bottom.sum()


def error(influence: np.ndarray, batch: Batch) -> float:
    key = np.arange(len(influence)) if batch.unit is None else batch.unit.astype(np.int64)
    by_unit = np.bincount(key, influence)[np.unique(key)]
    return float(np.sqrt((by_unit**2).sum() * len(by_unit) / (len(by_unit) - 1)))


@pytest.mark.parametrize("units", [None, 40])
@pytest.mark.parametrize("slots", NAMES)
def test_the_ratio_and_its_error_are_those_of_a_slow_reference(slots: int, units: int | None) -> None:
    batch = rows(slots, units)
    halves = [Batch(*(None if a is None else a[part] for a in batch)) for part in (slice(60), slice(60, None))]
    found = evaluate(halves, names=NAMES[slots], denominator="impression")
    pairs = compare([(half, as_logged(half)) for half in halves], names=NAMES[slots], denominator="impression")
    for name in NAMES[slots]:
        value, influence = slow(name, batch)
        assert (found[name].value, found[name].standard_error) == pytest.approx((value, error(influence, batch)), rel=1e-10)
        logged, other = slow(name, as_logged(batch))
        difference = pairs[name].difference
        wanted = (value - logged, error(influence - other, batch))
        assert (difference.value, difference.standard_error) == pytest.approx(wanted, rel=1e-9)
        assert {found[name].denominator, difference.denominator, pairs[name].champion.denominator} == {"impression"}


def test_what_was_never_seen_has_no_value_and_a_reason() -> None:
    batch = rows(1, None)
    found = evaluate([batch._replace(seen=np.zeros((150, 1)))], names=["ips"], denominator="impression")["ips"]
    assert math.isnan(found.value) and "was seen" in " ".join(found.reasons)
    mean = on_policy_mean([batch], denominator="impression")
    assert mean.value == pytest.approx((batch.reward * batch.seen).sum() / batch.seen.sum())


def test_what_has_no_form_per_impression_is_refused_by_name() -> None:
    batch = rows(1, None)
    with pytest.raises(RowsError, match=r"'dr' has no form per impression.*take one of ips"):
        evaluate([batch], names=["dr"], denominator="impression")
    with pytest.raises(RowsError, match="denominator 'view' is unknown"):
        evaluate([batch], names=["ips"], denominator="view")
    with pytest.raises(RowsError, match=r"seen of row 0, slot 0 is 0\.5; give 1"):
        evaluate([batch._replace(seen=np.full((150, 1), 0.5))], names=["ips"], denominator="impression")
    with pytest.raises(RowsError, match="seen is None"):
        evaluate([batch._replace(seen=None)], names=["ips"], denominator="impression")


def test_the_denominator_is_named_in_json_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    seen, weight = rng.random(400) < 0.5, rng.gamma(2.0, 0.5, 400)
    pl.DataFrame({"r": seen * rng.random(400), "w": weight, "s": seen}).write_parquet(tmp_path / "log.parquet")
    asked = ["evaluate", "--log", str(tmp_path / "log.parquet"), "--reward", "r", "--weight", "w"]
    _, out, _ = run(capsys, *asked, "--seen", "s", "--per", "impression", "--json")
    found = json.loads(out)["estimates"]
    assert list(found) == ["ips"] and found["ips"]["denominator"] == "impression"
    _, out, _ = run(capsys, *asked, "--seen", "s", "--per", "impression")
    assert "means per impression" in out
    _, out, _ = run(capsys, *asked, "--json")
    assert json.loads(out)["estimates"]["ips"]["denominator"] == "decision"
    code, out, err = run(capsys, *asked, "--per", "impression")
    assert code == 2 and err.startswith("error: --seen: not given")
