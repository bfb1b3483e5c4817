"""Staged promotion: who is in which arm, and what the pointer says of it."""

import itertools
from typing import Any

import numpy as np
import pytest

from bandits.errors import StoreError, VerdictRefused
from bandits.pointer import Pointer, begun, promoted, rolled_back
from bandits.traffic import CHALLENGER_ARM, CHAMPION_ARM, SHARES, Split, assign

UNITS = [f"unit-{number}" for number in range(20_000)]


def in_challenger(share: float, salt: str = "salt", task: str = "shop") -> np.ndarray:
    split = Split("c", share, salt)
    return np.array([assign(task=task, unit_id=unit, split=split).arm == CHALLENGER_ARM for unit in UNITS])


def test_without_a_split_everyone_is_the_champions() -> None:
    assert assign(task="shop", unit_id="u", split=None) == (CHAMPION_ARM, 1.0)


def test_a_larger_share_moves_only_the_units_between_the_two() -> None:
    arms = [in_challenger(share) for share in SHARES[:-1]]
    for smaller, larger in itertools.pairwise(arms):
        assert (larger | ~smaller).all() and larger.sum() > smaller.sum()


@pytest.mark.parametrize("share", SHARES[:-1])
def test_the_share_is_the_share_of_units_and_the_arms_probability(share: float) -> None:
    # False alarm 1e-6: a binomial count misses by more than 4.9 standard deviations.
    found = in_challenger(share).mean()
    assert abs(found - share) < 4.9 * np.sqrt(share * (1 - share) / len(UNITS))
    probabilities = {tuple(assign(task="shop", unit_id=unit, split=Split("c", share, "s"))) for unit in UNITS[:2_000]}
    chance = dict(probabilities)
    assert len(probabilities) == 2 and sum(chance.values()) == 1.0 and chance[CHALLENGER_ARM] == pytest.approx(share, abs=2**-53)


@pytest.mark.parametrize("other", [{"salt": "another"}, {"task": "another"}], ids=str)
def test_another_salt_or_task_deals_independently(other: dict[str, Any]) -> None:
    first, second = in_challenger(0.5), in_challenger(0.5, **other)
    # 20,000 units agree in half of the cases, within 4.9 standard deviations: false alarm 1e-6.
    assert abs((first == second).mean() - 0.5) < 4.9 * 0.5 / np.sqrt(len(UNITS))


def test_the_arms_of_three_units_are_what_they_always_were() -> None:
    # Recorded when the function was written: another answer would deal every running experiment anew.
    split = Split("c", 0.5, "salt")
    arms = [assign(task="shop", unit_id=unit, split=split).arm for unit in ("ann", "bob", "cid", "dee")]
    assert arms == ["champion", "challenger", "challenger", "champion"]


FIRST = begun("a", now_us=1)


def stage(pointer: Pointer, share: float, verdict: str, digest: str = "b") -> Pointer:
    return promoted(pointer, digest, verdict_id=verdict, share=share, now_us=pointer.moved_us + 1)


def test_the_steps_keep_the_salt_and_the_last_one_moves_the_champion() -> None:
    one = stage(FIRST, 0.01, "v1")
    two = stage(one, 0.1, "v2")
    whole = stage(two, 1.0, "v3")
    assert (one.digest, one.split, one.quoted, one.generation) == ("a", ("b", 0.01, "v1"), "v1", 2)
    assert (two.split, two.quoted, two.verdict) == (("b", 0.1, "v1"), "v2", "")
    assert (whole.digest, whole.previous, whole.split, whole.quoted, whole.generation) == ("b", "a", None, "v3", 4)


def test_a_promotion_may_skip_the_steps() -> None:
    assert stage(FIRST, 1.0, "v") == FIRST._replace(digest="b", previous="a", verdict="v", generation=2, moved_us=2)


@pytest.mark.parametrize(("share", "digest"), [(0.1, "b"), (0.05, "b"), (0.5, "c"), (1.0, "c"), (0.0, "b"), (1.5, "b")])
def test_a_step_that_does_not_grow_or_is_another_challengers_is_refused(share: float, digest: str) -> None:
    with pytest.raises(VerdictRefused):
        stage(stage(FIRST, 0.1, "v1"), share, "v2", digest=digest)


def test_a_rollback_ends_the_stage_first_and_the_champion_after() -> None:
    promoted_once = stage(FIRST, 1.0, "v1")
    staged = stage(promoted_once, 0.5, "v2", digest="c")
    back = rolled_back(staged, now_us=9)
    assert (back.digest, back.split, back.verdict, back.generation) == ("b", None, "v1", 4)
    assert rolled_back(back, now_us=10).digest == "a"
    with pytest.raises(StoreError, match="no previous"):
        rolled_back(FIRST, now_us=2)
