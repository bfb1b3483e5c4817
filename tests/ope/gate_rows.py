"""Rows to be judged, made from a seed: a logger at even odds, and a challenger that takes the first action more often."""

import dataclasses
from typing import Any

import numpy as np

from ope.gate.calibration import Draws
from ope.gate.config import GateConfig
from ope.gate.decide import gate
from ope.gate.evidence import Contest, Evidence, JudgedRows, Setting, evidence_of
from ope.gate.verdict import Verdict

CONTEST = Contest("digits", "c" * 64, "a" * 64, "change", "", generation=3, training_watermark_us=1_000_000, config_digest="f" * 64)
CONFIG = GateConfig(min_rows=1_000, max_rows=4_000, min_ess=300, veto_ess=100)
SLOTS = 2


def rows(n: int, *, gain: float = 0.0, seed: int = 0, tilt: float = 0.5, slots: int = SLOTS) -> JudgedRows:
    """n decisions of a logger that takes one of two actions in each slot at even odds; the challenger takes the first more often by `tilt`.

    A first action in slot 0 has the reward 0.3 + gain, any other 0.3: the challenger is better by gain * tilt / 2.
    """
    rng = np.random.default_rng(seed)
    first = rng.random((n, slots)) < 0.5
    chance = np.full((n, slots), 0.3 / slots)
    chance[:, 0] = 0.3 + gain * first[:, 0]
    return JudgedRows(
        decision_time_us=2_000_000 + np.arange(n, dtype=np.int64),
        unit=np.arange(n, dtype=np.uint64) // 4,
        reward=(rng.random((n, slots)) < chance).astype(float),
        challenger=np.cumprod(np.where(first, 1 + tilt, 1 - tilt), axis=1),
        champion=np.ones((n, slots)),
        unsupported=np.zeros(n, bool),
        excluded={"overridden": 2, "unlogged": 0, "fallback": 1},
        draws=draws(first[:, 0]),
    )


def draws(first: np.ndarray, propensity: float = 0.5) -> Draws:
    """The first slot of rows at even odds, logged with a propensity."""
    n = len(first)
    action = np.where(first, "first", "second").astype(np.str_)
    version = np.asarray(["a" * 64] * n, np.str_)
    return Draws(version, action, np.full(n, propensity), np.full(n, 2, np.int64), np.ones(n, bool))


def evidence(judged: JudgedRows, *, contest: Contest = CONTEST, **setting: Any) -> Evidence:
    return evidence_of(
        contest, judged, estimators=("rips", "sips"), setting=Setting(**{"complete": False, "now_us": 9_000_000, "logged": 0, **setting})
    )


def judged(
    decided: JudgedRows, *, config: GateConfig = CONFIG, contest: Contest = CONTEST, segmented: bool = False, **setting: Any
) -> Verdict:
    if segmented:
        device = np.where(np.arange(len(decided.unit)) % 3 == 0, "phone", "desk").astype(np.str_)
        decided = dataclasses.replace(decided, segments={"device": device})
    return gate(evidence(decided, contest=contest, **setting), config)
