"""Where the real experiments lie: the folder in SLATELOOP_DATA, or ../shared/data beside the checkout; and small made-up ones."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

__all__ = ["HTE", "made_up", "real"]

HTE = Path(os.environ.get("SLATELOOP_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "hte"


def real(name: str) -> Path:
    """The file of a real experiment; skips where its folder is not there."""
    if not (HTE / name).exists():
        pytest.skip(f"{HTE / name} is not there: set SLATELOOP_DATA to the folder of the experiments' data")
    return HTE / name


def made_up(n: int = 600, *, seed: int = 0) -> pa.Table:
    """An experiment with three arms whose best depends on `age` and `place`; rounded, so that rows are alike."""
    rng = np.random.default_rng(seed)
    arm, age, place = rng.integers(0, 3, n), rng.integers(20, 60, n), rng.integers(0, 3, n)
    better = np.where(age > 40, arm == 1, arm == 2)
    y = np.round(better + 0.02 * age + 0.3 * (place == 1) + rng.normal(0.0, 0.5, n), 2)
    return pa.table({
        "arm": np.array(["control", "letter", "call"])[arm],
        "age": age.astype(float),
        "place": np.array(["city", "town", "farm"])[place],
        "village": rng.integers(0, 40, n),
        "weight": rng.integers(1, 4, n).astype(float),
        "y": y,
        "z": np.round(2.0 - y + 0.1 * rng.normal(size=n), 1),
    })  # fmt: skip
