"""The gate: what promotes, what holds, what vetoes, and what it says."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ope import open_bandit
from ope.errors import GateError, VerdictError
from ope.gate.config import GateConfig, gate_config
from ope.gate.decide import refusal
from ope.gate.evidence import WEIGHT_EDGES, JudgedRows
from ope.gate.report import report_html
from ope.gate.verdict import Verdict, from_mapping, to_json, to_mapping
from protos.errors import ConfigError
from protos.task import TaskFile
from tests.ope.gate_rows import CONFIG, CONTEST, SLOTS, evidence, judged, rows


def test_a_better_challenger_is_promoted_with_estimates_of_both_and_of_the_difference() -> None:
    verdict = judged(rows(2_000, gain=0.5))
    assert verdict.decision == "promote"
    assert list(verdict.estimates) == ["rips", "sips"]
    difference = verdict.estimates["rips"].difference
    assert difference.lower > 0 and difference.lower < 0.125 < difference.upper
    assert difference.interval == "asymptotic confidence sequence over the declared window" and difference.level == 0.1
    assert verdict.excluded == {"overridden": 2, "unlogged": 0, "fallback": 1} and (verdict.first_us, verdict.last_us) == (
        2_000_000,
        2_001_999,
    )
    assert "its lower end is above +0.0000" in verdict.reasons[0]


def test_the_same_policy_waits_and_is_held_at_the_end() -> None:
    assert judged(rows(1_500)).decision == "wait"
    assert judged(rows(4_000)).decision == "hold"
    assert judged(rows(1_500), complete=True).decision == "hold"


def test_a_refresh_needs_no_gain_but_no_loss_beyond_the_margin() -> None:
    refresh = dataclasses.replace(CONTEST, kind="refresh")
    config = CONFIG.model_copy(update={"margin_refresh": 0.05})
    twin = dataclasses.replace(rows(2_000), challenger=np.ones((2_000, SLOTS)))
    verdict = judged(twin, config=config, contest=refresh)
    assert verdict.decision == "promote" and verdict.margin == -0.05
    assert verdict.estimates["rips"].difference.standard_error == 0.0
    assert judged(twin).decision == "hold", "a change must be better, and a twin never will be"


def test_a_worse_challenger_is_held_before_the_rows_run_out() -> None:
    verdict = judged(rows(3_000, gain=-0.3, tilt=0.9))
    assert verdict.decision == "hold" and "more rows will not help" in verdict.reasons[0]


def test_too_few_rows_wait_and_are_held_when_no_more_will_come() -> None:
    assert judged(rows(999)).decision == "wait"
    assert judged(rows(0)).decision == "wait"
    verdict = judged(rows(999), complete=True)
    assert verdict.decision == "hold" and "Only 999 rows" in verdict.reasons[0]


def test_one_look_is_taken_at_the_last_row_only() -> None:
    config = CONFIG.model_copy(update={"looks": 1})
    assert judged(rows(3_999, gain=0.5), config=config).decision == "wait"
    verdict = judged(rows(4_000, gain=0.5), config=config)
    assert verdict.decision == "promote" and verdict.estimates["rips"].difference.interval == "student-t"


def scarce(n: int, *, every: int) -> JudgedRows:
    """A challenger that does what the log did in one row of `every`: about n / every effective rows."""
    weight = np.where(np.arange(n) % every == 0, float(every), 0.0)[:, None] * np.ones((1, SLOTS))
    return dataclasses.replace(rows(n), challenger=weight)


def test_few_effective_rows_wait_then_hold_and_very_few_are_vetoed() -> None:
    assert judged(scarce(2_000, every=10)).decision == "wait"
    assert judged(scarce(4_000, every=20)).decision == "hold"
    verdict = judged(scarce(4_000, every=80))
    assert verdict.decision == "veto" and verdict.estimates == {}
    assert "50 effective rows of 4000" in verdict.reasons[0]


def test_only_the_slots_that_carry_the_value_need_effective_rows() -> None:
    plenty = rows(2_000, gain=0.6, tilt=0.5)
    weight = plenty.challenger.copy()
    weight[:, 1] *= np.where(np.arange(2_000) % 50 == 0, 50.0, 0.0)
    lonely = dataclasses.replace(plenty, challenger=weight, reward=plenty.reward * [1.0, 0.0])
    verdict = judged(lonely)
    assert [slot.carries for slot in verdict.slots] == [True, False]
    assert verdict.slots[1].effective_sample_size < CONFIG.veto_ess and verdict.decision == "promote"


def test_wrong_propensities_are_vetoed_by_the_mean_weight_and_right_ones_are_not() -> None:
    right = rows(4_000, gain=0.5)
    wrong = dataclasses.replace(right, challenger=right.challenger * 1.1)
    verdict = judged(wrong)
    assert verdict.decision == "veto" and "mean weight in slot 0" in verdict.reasons[0] and not verdict.estimates
    # 200 sound logs at a level of 1e-3 over all looks: more than 5 vetoes have a probability below 1e-7.
    vetoes = sum(judged(rows(1_000, seed=seed)).decision == "veto" for seed in range(200))
    assert vetoes <= 5


def test_rows_that_were_trained_on_are_vetoed() -> None:
    late = dataclasses.replace(CONTEST, training_watermark_us=2_000_000)
    verdict = judged(rows(2_000, gain=0.5), contest=late)
    assert verdict.decision == "veto" and "training rows" in verdict.reasons[0]


def test_actions_that_were_never_logged_are_vetoed() -> None:
    decided = rows(2_000, gain=0.5)
    strange = dataclasses.replace(decided, unsupported=np.arange(2_000) % 20 == 0)
    verdict = judged(strange)
    assert verdict.decision == "veto" and "5.0%" in verdict.reasons[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_vetoed_and_so_is_one_out_of_range(bad: float) -> None:
    decided = rows(2_000, gain=0.5)
    reward = decided.reward.copy()
    reward[5, 0] = bad
    assert "1 of 2000 rows" in judged(dataclasses.replace(decided, reward=reward)).reasons[0]
    narrow = CONFIG.model_copy(update={"reward_range": (0.0, 1.0)})
    assert "outside reward_range = [0, 1]" in judged(decided, config=narrow).reasons[0]


def test_every_veto_is_named_at_once() -> None:
    late = dataclasses.replace(CONTEST, training_watermark_us=3_000_000)
    strange = dataclasses.replace(rows(2_000), unsupported=np.ones(2_000, bool))
    assert len(judged(strange, contest=late).reasons) == 2


def test_estimators_that_contradict_each_other_are_vetoed() -> None:
    """Slot 0 pays for what slot 1 holds, which prefix weights cannot see: joint weights can."""
    rng = np.random.default_rng(1)
    n = 4_000
    first, second = rng.random(n) < 0.5, rng.random(n) < 0.5
    reward = np.stack([(rng.random(n) < 0.2 + 0.2 * first + 0.5 * ~second).astype(float), np.zeros(n)], axis=1)
    challenger = np.cumprod(np.stack([np.where(first, 1.8, 0.2), np.where(second, 1.8, 0.2)], axis=1), axis=1)
    fooled = dataclasses.replace(rows(n), reward=reward, challenger=challenger)
    verdict = judged(fooled)
    assert verdict.decision == "veto" and "contradict each other" in verdict.reasons[0] and not verdict.estimates


def test_a_first_champion_is_not_judged() -> None:
    with pytest.raises(GateError, match="kind 'first'"):
        judged(rows(10), contest=dataclasses.replace(CONTEST, kind="first"))


def test_no_gain_is_seldom_promoted_however_often_one_looks() -> None:
    # 60 challengers without gain, each looked at every 1,000 rows; at the promised 5 % more than 12 have a probability below 1e-4.
    wrong = 0
    for seed in range(60):
        whole = rows(4_000, seed=seed)
        looks = (_head(whole, n) for n in range(1_000, 4_001, 1_000))
        wrong += any(judged(look).decision == "promote" for look in looks)
    assert wrong <= 12


def _head(decided: JudgedRows, n: int) -> JudgedRows:
    values = {f.name: getattr(decided, f.name) for f in dataclasses.fields(decided)}
    arrays = {name: value[:n] for name, value in values.items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(decided, **arrays, draws=None)


def open_bandit_rows(challenger: np.ndarray, reward: np.ndarray) -> JudgedRows:
    """Impressions of the Open Bandit data as slates of one; the champion is the policy that logged them."""
    n = len(reward)
    one = dataclasses.replace(rows(n, slots=1), unit=np.arange(n, dtype=np.uint64), champion=np.ones((n, 1)), draws=None)
    return dataclasses.replace(one, challenger=challenger.reshape(n, 1), reward=reward.reshape(n, 1))


def test_an_inconclusive_real_log_promotes_nobody() -> None:
    # Random to Thompson sampling: the difference is 0.0008 with a 95 % interval from -0.0031 to 0.0046.
    sample = Path(__file__).parent / "data" / "open_bandit_sample"
    log = open_bandit.read_log(sample / "random" / "all")
    batch = next(open_bandit.batches(log, open_bandit.target_probabilities(str(sample / "bts_production.csv"), log)))
    assert batch.weight is not None
    decided = open_bandit_rows(batch.weight, batch.reward)
    config = GateConfig(min_rows=1_000, max_rows=10_000, looks=1)
    verdict = judged(decided, config=config)
    assert verdict.decision == "hold"
    assert verdict.estimates["rips"].difference.value == pytest.approx(0.0007669039999999998, rel=1e-9)


def test_a_real_log_with_two_effective_rows_is_vetoed() -> None:
    # As Thompson sampling to random of the other campaign: 2.1 effective rows of 10,000, one weight of 21,739, mean weight 3.13.
    weight = np.full(10_000, 0.957)
    weight[17] = 21_739.0
    verdict = judged(open_bandit_rows(weight, np.full(10_000, 0.0046)), config=GateConfig(min_rows=1_000, max_rows=10_000))
    assert verdict.decision == "veto" and "2 effective rows of 10000" in verdict.reasons[0] and not verdict.estimates


def test_a_shortfall_of_weight_that_a_few_rare_rows_would_fill_is_no_veto() -> None:
    """A twin of the champion except in rare rows: their large weights may all be missing by chance."""
    n = 2_000
    weight = np.full((n, SLOTS), 0.99)
    weight[:, 0] -= 0.005 * (np.arange(n) % 2)
    weight[7] = 9.0
    near = judged(dataclasses.replace(rows(n), challenger=weight))
    assert near.slots[1].mean_z < -1 and near.decision != "veto"
    wrong = judged(dataclasses.replace(rows(n), challenger=np.minimum(weight, 1.0)))
    assert wrong.decision == "veto" and "mean weight" in wrong.reasons[0]


def test_a_gain_that_one_more_row_could_undo_is_not_promoted() -> None:
    """A sure gain, but a row without reward shows that the champion's weight can be 900: one such with a reward would undo it all."""
    sure = rows(2_000, gain=0.5, slots=1)
    assert judged(sure).decision == "promote"
    weight, reward = sure.champion.copy(), sure.reward.copy()
    weight[7], reward[7] = 900.0, 0.0
    rare = judged(dataclasses.replace(sure, champion=weight, reward=reward))
    difference = rare.estimates["rips"].difference
    assert rare.decision == "wait" and difference.value > 0.1 > 0 > difference.lower
    assert abs(difference.upper - judged(sure).estimates["rips"].difference.upper) < 0.01, "the other end has nothing to fear"


VERDICTS = [
    judged(rows(2_000, gain=0.5)),
    judged(rows(4_000)),
    judged(rows(2_000), contest=dataclasses.replace(CONTEST, training_watermark_us=3_000_000, label="drill")),
    refusal(CONTEST, CONFIG, reason="The challenger cannot be judged: it is damaged.", now_us=5),
]


@pytest.mark.parametrize("verdict", VERDICTS, ids=["promote", "hold", "veto", "refusal"])
def test_a_verdict_survives_json_and_gives_the_same_bytes_again(verdict: Verdict) -> None:
    text = to_json(to_mapping(verdict))
    again = from_mapping(json.loads(text))
    assert to_json(to_mapping(again)) == text
    assert json.loads(text)["challenger"] == CONTEST.challenger and again.decision == verdict.decision


@pytest.mark.parametrize("verdict", VERDICTS, ids=["promote", "hold", "veto", "refusal"])
def test_a_report_is_one_page_that_needs_nothing_else(verdict: Verdict) -> None:
    page = report_html(verdict)
    assert page == report_html(verdict)
    assert "http" not in page.replace("<!doctype html>", "") and "<script" not in page and page.count("data:image/png;base64,") >= 1
    assert all(digest in page for digest in (CONTEST.challenger, CONTEST.champion))
    assert ("Estimates are not shown" in page) == (verdict.decision == "veto")


def test_counts_of_weights_are_of_all_rows() -> None:
    found = evidence(rows(500))
    assert sum(found.weight_counts) == 500 and len(found.weight_counts) == len(WEIGHT_EDGES) + 1


def test_what_is_no_verdict_is_refused() -> None:
    with pytest.raises(VerdictError, match="not a verdict"):
        from_mapping({"decision": "promote"})
    with pytest.raises(VerdictError, match="not a verdict"):
        from_mapping({**to_mapping(VERDICTS[0]), "extra": 1})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"min_row": 5}, "gate.min_row: unknown key; did you mean `min_rows`"),
        ({"level": 0.4}, "gate.level: 0.4 is refused"),
        ({"min_rows": 10, "max_rows": 5}, "min_rows = 10 is above max_rows = 5"),
        ({"looks": 2}, "gate.looks"),
        ({"reward_range": [1, 0]}, "is empty"),
        ({"estimator": "ips"}, "gate.estimator"),
    ],
)
def test_a_faulty_section_names_key_value_and_remedy(section: dict[str, object], message: str) -> None:
    task = TaskFile(name="t", tenant="default", sections={"gate": section}, digest="0" * 64)
    with pytest.raises(ConfigError) as caught:
        gate_config(task)
    assert message in str(caught.value)
