"""The hash is PlanOut's: 10,000 vectors that PlanOut 0.6.0 computed (tests/bandits/planout), and the law of the shares."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from bandits.allocation import moved
from bandits.planout import POINTS, point, segment, uniform

FOLDER = Path(__file__).parent / "planout"


def rule() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planout_vectors", FOLDER / "vectors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ten_thousand_golden_vectors_equal_planouts() -> None:
    vectors = rule()
    golden = (FOLDER / "vectors.txt").read_text().split("\n")[:-1]
    arms = moved({}, dict(zip(vectors.ARMS, vectors.WEIGHTS, strict=True)))
    found = []
    for experiment, unit in vectors.inputs():
        at = point(f"{experiment}.arm", unit)
        (arm,) = [name for name, ranges in arms.items() if any(begin <= at < end for begin, end in ranges)]
        found.append(f"{uniform(f'{experiment}.point', unit)!r} {arm} {segment(f'{experiment}.segment', unit, segments=vectors.SEGMENTS)}")
    assert len(golden) == 10_000 and found == golden


def test_a_point_is_where_planouts_weighted_choice_puts_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, place in ((0.0, 0), (1.0, POINTS - 1), (0.2, 199_999), (0.2000001, 200_000), (1e-9, 0)):
        monkeypatch.setattr("bandits.planout.uniform", lambda *_, value=value: value)
        assert point("s", "u") == place


def test_shares_of_arms_pass_a_chi_square_on_a_fixed_salt() -> None:
    # 200,000 units in four arms. The salt is fixed, so the test has no false alarm once it has passed; it would see a share that is off by
    # 0.5 percentage points (90 % power at 1e-6).
    shares = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    edges = np.cumsum([round(share * POINTS) for share in shares.values()])
    points = [point("fixed.arm", f"unit-{number}") for number in range(200_000)]
    counts = np.bincount(np.searchsorted(edges, points, side="right"), minlength=4)
    assert stats.chisquare(counts, 200_000 * np.array(list(shares.values()))).pvalue > 1e-6


def test_two_salts_deal_independently() -> None:
    first, second = (np.array([uniform(salt, str(number)) < 0.5 for number in range(20_000)]) for salt in ("one", "two"))
    # They agree in half of the cases, within 4.9 standard deviations: false alarm 1e-6.
    assert abs((first == second).mean() - 0.5) < 4.9 * 0.5 / np.sqrt(20_000)
