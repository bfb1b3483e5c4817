"""Logs in Parquet files and in the Open Bandit format, and the reward model of the latter."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ope import open_bandit, reward_model
from ope.errors import SourceError
from ope.evaluate import applicable, evaluate, on_policy_mean
from ope.parquet_log import ColumnMapping, count_rows, read_batches
from ope.rows import Batch
from tests.ope.slow_reference import value_and_error

SAMPLE = Path(__file__).parent / "data" / "open_bandit_sample"
RANDOM, BTS, PRODUCTION = SAMPLE / "random" / "all", SAMPLE / "bts" / "all", SAMPLE / "bts_production.csv"


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return open_bandit.read_log(RANDOM)


# Parquet.


def test_weights_from_propensities_are_those_of_the_weight_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 1_000
    frame = pl.DataFrame(
        {"r": rng.random(n), "p": rng.uniform(0.1, 1, n), "t": rng.random(n), "u": rng.integers(0, 50, n), "q": rng.random(n)}
    )
    frame.with_columns(w=pl.col("t") / pl.col("p"), v=pl.col("q")).write_parquet(tmp_path / "log.parquet", row_group_size=100)
    two = ColumnMapping("r", propensity="p", target_propensity="t", unit="u", q_logged="q", v_target="v")
    one = ColumnMapping("r", weight="w", unit="u", q_logged="q", v_target="v")
    found, same = (evaluate(read_batches(tmp_path / "log.parquet", mapping)) for mapping in (two, one))
    assert list(found) == ["ips", "snips", "dm", "dr", "sndr"] and count_rows(tmp_path / "log.parquet") == n
    whole = Batch(*(frame[name].to_numpy()[:, None] for name in ("r",)), weight=(frame["t"] / frame["p"]).to_numpy()[:, None])
    expected = value_and_error("ips", whole._replace(unit=frame["u"].to_numpy().astype(np.uint64)))
    assert (found["ips"].value, found["ips"].standard_error) == pytest.approx(expected, rel=1e-12)
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(same[name].value, rel=1e-12) and estimate.n_units == 50


def test_a_log_of_lists_is_one_of_slates(tmp_path: Path) -> None:
    rows = {"r": [[1.0, 0.0], [0.5]], "p": [[0.5, 0.5], [0.25]], "t": [[1.0, 0.25], [0.5]]}
    pl.DataFrame(rows).write_parquet(tmp_path / "slates.parquet")
    found = evaluate(read_batches(tmp_path / "slates.parquet", ColumnMapping("r", propensity="p", target_propensity="t")))
    assert found["rips"].value == pytest.approx((2.0 * 1.0 + 2.0 * 0.5) / 2) and found["sips"].value == pytest.approx(
        (1.0 * 1.0 + 2.0 * 0.5) / 2
    )


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (ColumnMapping("reward", weight="w"), "--reward: no column 'reward'; did you mean `rewards`"),
        (ColumnMapping("rewards", propensity="w"), "--propensity and --target-propensity: one is missing"),
        (ColumnMapping("rewards", weight="w", propensity="w", target_propensity="w"), "--weight: given beside --propensity"),
        (ColumnMapping("rewards", weight="slates"), "column 'slates': is large_list"),
        (ColumnMapping("rewards", weight="text"), "column 'text': holds no numbers"),
    ],
)
def test_a_mapping_that_does_not_fit_names_flag_value_and_remedy(tmp_path: Path, mapping: ColumnMapping, message: str) -> None:
    pl.DataFrame({"rewards": [1.0], "w": [1.0], "slates": [[1.0]], "text": ["x"]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(SourceError) as caught:
        list(read_batches(tmp_path / "log.parquet", mapping))
    assert message in str(caught.value)


def test_estimators_are_chosen_by_what_the_rows_have() -> None:
    reward = np.ones((3, 1))
    assert applicable(Batch(reward)) == []
    assert applicable(Batch(reward, weight=reward)) == ["ips", "snips"]
    assert applicable(Batch(reward, reward, reward, reward)) == ["ips", "snips", "dm", "dr", "sndr"]
    assert applicable(Batch(np.ones((3, 2)), np.ones((3, 2)))) == ["rips", "sips", "snrips", "snsips"]


# The reward model.


def cells(counts: pl.DataFrame) -> pl.DataFrame:
    return counts.select("fold", "a").unique(maintain_order=True)


def test_no_row_is_predicted_by_a_model_that_saw_it() -> None:
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"a": rng.integers(0, 5, 3_000), "reward": rng.binomial(1, 0.3, 3_000).astype(float)})
    rows = rows.with_columns(pl.Series("fold", reward_model.folds_of_blocks(3_000)))
    counts = reward_model.count(rows, categories=["a"])
    found = reward_model.predictions(counts, cells=cells(counts), categories=["a"]).sort("fold", "a")
    other = rows.with_columns(reward=pl.when(pl.col("fold") == 1).then(1 - pl.col("reward")).otherwise("reward"))
    turned = reward_model.predictions(reward_model.count(other, categories=["a"]), cells=cells(counts), categories=["a"]).sort("fold", "a")
    same = (found["q"] - turned["q"]).abs() < 1e-12
    assert same.filter(found["fold"] == 1).all() and not same.filter(found["fold"] != 1).any()


def test_counts_of_parts_are_the_counts_of_the_whole() -> None:
    rows = pl.DataFrame({"fold": [0, 0, 1, 1], "a": [1, 1, 2, 2], "reward": [1.0, 0.0, 1.0, 1.0]})
    parts = reward_model.merge_counts(*(reward_model.count(part, categories=["a"]) for part in (rows[:1], rows[1:])))
    assert parts.sort("a").equals(reward_model.count(rows, categories=["a"]).sort("a"), null_equal=True)


def test_a_single_outcome_in_the_other_folds_is_predicted_as_it_is() -> None:
    counts = pl.DataFrame({"fold": [0, 1], "a": [1, 1], "rows": [4, 4], "successes": [0.0, 3.0]})
    found = reward_model.predictions(counts, cells=cells(counts), categories=["a"]).sort("fold")
    assert found["q"].to_list()[1] == 0.0 and 0.5 < found["q"].to_list()[0] < 1.0


# Open Bandit.


def test_the_sample_gives_the_figures_of_the_open_bandit_pipeline(log: pl.DataFrame) -> None:
    # OBP 0.5.7 on the same 10,000 rows: `ipw` and `snipw` of campaign `all`, random to bts.
    found = evaluate(open_bandit.batches(log, open_bandit.target_probabilities(str(PRODUCTION), log)))
    assert found["ips"].value == pytest.approx(0.004566903999999999, rel=1e-10)
    assert found["snips"].value == pytest.approx(0.0047906024861338985, rel=1e-10)
    assert found["ips"].effective_sample_size == pytest.approx(1643.1949330327693, rel=1e-10)
    assert found["ips"].largest_weight == pytest.approx(19.57352, rel=1e-10)


def test_the_logging_policy_evaluated_on_its_own_log_is_its_mean(log: pl.DataFrame) -> None:
    found = evaluate(open_bandit.batches(log, open_bandit.target_probabilities("uniform", log)), names=["ips", "snips"])
    for estimate in found.values():
        assert estimate.value == pytest.approx(log["reward"].mean(), rel=1e-9)


def test_a_log_as_target_is_its_shares_and_the_on_policy_mean_lies_in_the_interval(log: pl.DataFrame) -> None:
    target = open_bandit.target_probabilities(str(BTS), log)
    own = open_bandit.read_log(BTS)
    assert target.table.group_by("position").agg(pl.col("probability").sum())["probability"].to_list() == pytest.approx([1.0] * 3)
    assert target.unseen == 1 and (target.table["probability"] == 0).sum() == 1
    mean = on_policy_mean([Batch(own["reward"].to_numpy()[:, None])])
    assert mean.value == 0.0042
    estimate = evaluate(open_bandit.batches(log, target))["dr"]
    assert estimate.lower < mean.value < estimate.upper


def test_a_hopeless_log_is_doubted_aloud() -> None:
    log = open_bandit.read_log(BTS)
    rare = log.with_columns(propensity=pl.when(pl.int_range(pl.len()) == 3).then(1e-7).otherwise("propensity"))
    found = evaluate(open_bandit.batches(rare, open_bandit.target_probabilities("uniform", rare)), names=["ips"])["ips"]
    assert found.effective_sample_size < 2 and len(found.reasons) >= 2


def test_a_folder_or_file_that_is_no_log_is_refused(tmp_path: Path, log: pl.DataFrame) -> None:
    with pytest.raises(SourceError, match="holds 0 logs"):
        open_bandit.read_log(tmp_path)
    (tmp_path / "all.csv").write_text("item_id,click\n1,0\n")
    with pytest.raises(SourceError, match="cannot be read with the columns"):
        open_bandit.read_log(tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        open_bandit.target_probabilities(str(tmp_path / "absent.csv"), log)
    (tmp_path / "half.csv").write_text("item_id,position,probability\n0,1,0.5\n")
    with pytest.raises(SourceError, match=r"position 1 sum to 0\.5; they must sum to 1"):
        open_bandit.target_probabilities(str(tmp_path / "half.csv"), log)
