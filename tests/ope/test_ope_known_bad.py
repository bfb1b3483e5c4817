"""Known-bad evidence: each is vetoed with its reason, and none is promoted; the same evidence, sound, is promoted."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from ope.gate.config import GateConfig, Guardrail
from ope.gate.evidence import JudgedRows
from tests.ope.gate_rows import CONFIG, CONTEST, draws, judged, rows

SOUND = rows(3_000, gain=0.5)


def changed(**parts: object) -> JudgedRows:
    return dataclasses.replace(SOUND, **parts)


def kept(mask: np.ndarray) -> JudgedRows:
    """The rows of a mask."""
    assert SOUND.draws is not None
    arrays = {name: value[mask] for name, value in vars(SOUND).items() if isinstance(value, np.ndarray)}
    return changed(**arrays, draws=type(SOUND.draws)(*(column[mask] for column in SOUND.draws)))


def halved() -> JudgedRows:
    first = SOUND.challenger[:, 0] > 1
    return changed(challenger=SOUND.challenger * 2, champion=SOUND.champion * 2, draws=draws(first, 0.25))


CASES: dict[str, tuple[Callable[[], JudgedRows], dict[str, object], str]] = {
    "propensities halved": (halved, {}, "mean weight in slot 0 is 2"),
    "propensities of another policy": (
        lambda: changed(draws=draws(np.arange(3_000) % 10 < 9)),
        {},
        "'first' was drawn 1.800 times as often",
    ),
    "a champion's row that its snapshot does not give": (
        lambda: changed(replayed=np.ones(3_000, bool), misreplayed=np.arange(3_000) % 100 == 0),
        {},
        "30 of the 3000 rows that the champion itself logged",
    ),
    "rows filtered by outcome": (lambda: kept((SOUND.reward[:, 0] > 0) | (np.arange(3_000) % 4 == 0)), {}, "chosen by what came of them"),
    "a target never logged": (lambda: changed(unsupported=np.arange(3_000) % 3 == 0), {}, "33.3% of its decisions"),
    "a new action without a budget": (lambda: changed(novel=np.arange(3_000) % 20 == 0), {}, "exploration_budget = 0.0%"),
    "its own training rows": (lambda: SOUND, {"contest": dataclasses.replace(CONTEST, training_watermark_us=2_500_000)}, "training rows"),
    "a stale reward source": (lambda: SOUND, {"now_us": 10_000_000_000, "watermark_us": 2_000_000}, "a source is silent"),
    "rows overridden by callers": (lambda: changed(excluded={"overridden": 400}), {}, "are lost"),
    "rows lost in the join": (lambda: SOUND, {"logged": 1_000, "lost": 80}, "80 of 1000 logged without a row"),
    "one row with most of the weight": (
        lambda: changed(challenger=np.where(np.arange(3_000) == 7, 1_500.0, 0.5)[:, None] * np.ones((1, 2))),
        {"complete": True},
        "The top 0.1 % of the rows have",
    ),
    "a reward that is no number": (
        lambda: changed(reward=np.where(np.arange(3_000) == 5, np.nan, 1.0)[:, None] * np.ones((1, 2))),
        {},
        "no finite",
    ),
}


def test_the_sound_case_is_promoted() -> None:
    verdict = judged(SOUND)
    assert verdict.decision == "promote" and all(check.passed for check in verdict.checks) and len(verdict.checks) > 10


@pytest.mark.parametrize("case", CASES)
def test_evidence_that_is_not_to_be_believed_is_vetoed_with_its_reason_and_without_estimate(case: str) -> None:
    make, setting, reason = CASES[case]
    verdict = judged(make(), **setting)
    assert verdict.decision == "veto" and reason in " ".join(verdict.reasons) and not verdict.estimates and not verdict.segments
    assert any(not check.passed for check in verdict.checks)


def guarded(direction: str, harm: float) -> tuple[GateConfig, JudgedRows]:
    """A guardrail that the challenger's favourite action moves by `harm`, and the rows with it."""
    rail = Guardrail(metric="complaints", direction=direction, margin=0.05)
    first = SOUND.challenger[:, :1] > 1
    complaints = np.concatenate([0.2 + harm * first, np.zeros((3_000, 1))], axis=1)
    complaints += np.random.default_rng(2).normal(0, 0.1, complaints.shape)
    return CONFIG.model_copy(update={"guardrails": (rail,)}), changed(guardrails={"complaints": complaints})


@pytest.mark.parametrize(("direction", "sign"), [("lower", 1.0), ("higher", -1.0)])
def test_a_broken_guardrail_is_a_veto_and_one_that_holds_is_not(direction: str, sign: float) -> None:
    config, harmful = guarded(direction, sign * 0.4)
    verdict = judged(harmful, config=config)
    assert (
        verdict.decision == "veto" and "Guardrail `complaints` is broken" in verdict.reasons[0] and "0.05 is allowed" in verdict.reasons[0]
    )
    config, harmless = guarded(direction, 0.0)
    assert judged(harmless, config=config).decision == "promote"
    # A harm of just the margin is neither: the gate waits for more rows, and holds in the end.
    config, doubtful = guarded(direction, sign * 0.2)
    assert judged(doubtful, config=config).decision == "wait" and judged(doubtful, config=config, complete=True).decision == "hold"


@pytest.mark.parametrize("kind", ["refresh", "change"])
def test_a_guardrail_that_never_moves_is_said_to_be_not_known(kind: str) -> None:
    """Its events never came, or are called otherwise: that the challenger does it no harm is no finding."""
    rail = Guardrail(metric="complaints", direction="lower", margin=0.05)
    config, contest = CONFIG.model_copy(update={"guardrails": (rail,)}), dataclasses.replace(CONTEST, kind=kind)
    verdict = judged(changed(guardrails={"complaints": np.zeros((3_000, 2))}), config=config, contest=contest)
    assert "Not known: what happens to guardrail `complaints`. It is 0 in all 3000 rows" in verdict.reasons[-1]
    _, heard = guarded("lower", 0.0)
    assert not any("Not known" in reason for reason in judged(heard, config=config, contest=contest).reasons)


def test_new_actions_enter_up_to_their_budget() -> None:
    config = CONFIG.model_copy(update={"exploration_budget": 0.1})
    assert judged(changed(novel=np.arange(3_000) % 20 == 0), config=config).decision == "promote"


def test_a_challenger_behind_the_anchor_is_held_though_it_beats_the_champion() -> None:
    """The champion has ratcheted down; the anchor takes the good action always."""
    anchor = np.cumprod(np.where(SOUND.challenger[:, :1] > 1, 2.0, 0.0) * np.array([[1.0, 0.0]]) + np.array([[0.0, 1.0]]), axis=1)
    verdict = judged(changed(anchor=anchor))
    assert verdict.decision == "wait" and "behind the anchor" in verdict.reasons[1]
    allowed = CONFIG.model_copy(update={"margin_anchor": 0.4})
    assert judged(changed(anchor=anchor), config=allowed).decision == "promote"


def test_rows_of_too_short_a_time_promote_nobody() -> None:
    config = CONFIG.model_copy(update={"min_span_s": 60.0})
    assert "span 0 s of the 60 s" in " ".join(judged(SOUND, config=config).reasons)
