"""The Open Bandit data (Saito et al. 2021, arXiv:2008.07146): folders of a behaviour policy's log, one campaign each.

A row is one impression of one item at one position; there is no unit and no slate in it. A target policy is a probability for each
item at each position, the same for every visitor:

    uniform            every item alike
    a folder           the share of that log's impressions that each item has at each position: the policy as it was run, on average
    a CSV file         columns item_id, position, probability
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from ope import reward_model
from ope.errors import SourceError
from ope.rows import Batch, single_actions

__all__ = ["UNIFORM", "Probabilities", "batches", "read_log", "target_probabilities"]

UNIFORM = "uniform"
_USER = tuple(f"user_feature_{k}" for k in range(4))
_CATEGORIES = ("item_id", "position", *_USER)
_NEEDED = ("item_id", "position", "click", "propensity_score", *_USER)
_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """A target policy: `table` has one row an item and position, with its `probability`; `unseen` = pairs that it knows nothing of."""

    table: pl.DataFrame
    unseen: int


def read_log(folder: Path) -> pl.DataFrame:
    """The rows of a log: item_id, position (1 = left), reward, propensity, user features, fold. Raises SourceError."""
    files = sorted(path for path in folder.glob("*.csv*") if path.name.removesuffix(".gz") != "item_context.csv")
    if len(files) != 1:
        raise SourceError(f"{folder}: holds {len(files)} logs; give a folder with one CAMPAIGN.csv or CAMPAIGN.csv.gz, say random/all")
    rows = _read_csv(files[0], _NEEDED)
    wrong = rows.filter(~((pl.col("propensity_score") > 0) & (pl.col("propensity_score") <= 1)))
    if len(wrong):
        raise SourceError(f"{files[0]}: propensity_score {wrong['propensity_score'][0]} is not in (0, 1]; leave out such rows")
    fold = pl.Series("fold", reward_model.folds_of_blocks(len(rows)))
    return rows.rename({"click": "reward", "propensity_score": "propensity"}).with_columns(fold, pl.col("reward").cast(pl.Float64))


def target_probabilities(target: str, log: pl.DataFrame) -> Probabilities:
    """The target policy over the items and positions of `log` and of its own. Raises SourceError."""
    if target == UNIFORM:
        pairs = _pairs(log)
        return Probabilities(pairs.with_columns(probability=1 / pl.len().over("position")), unseen=0)
    path = Path(target)
    given = _shares(read_log(path)) if path.is_dir() else _read_csv(path, ("item_id", "position", "probability"))
    totals = given.group_by("position").agg(pl.col("probability").sum())
    wrong = totals.filter((pl.col("probability") - 1).abs() > 1e-3)
    if len(wrong):
        position, total = wrong.row(0)
        raise SourceError(f"{target}: probabilities at position {position} sum to {total:.6g}; they must sum to 1")
    pairs = _pairs(pl.concat([log.select("item_id", "position"), given.select("item_id", "position")]))
    table = pairs.join(given, on=["item_id", "position"], how="left")
    return Probabilities(table.with_columns(pl.col("probability").fill_null(0.0)), unseen=int(table["probability"].is_null().sum()))


def batches(log: pl.DataFrame, target: Probabilities) -> Iterator[Batch]:
    """The log under the target policy, with a cross-fitted reward model, in batches. Rows in the order of the log."""
    model = _model(log, target.table)
    for start in range(0, len(log), _BLOCK):
        rows = log.slice(start, _BLOCK)
        rows = rows.join(target.table, on=["item_id", "position"], how="left", maintain_order="left")
        rows = rows.join(model, on=["fold", *_CATEGORIES], how="left", maintain_order="left")
        yield single_actions(
            reward=rows["reward"].to_numpy(),
            weight=(rows["probability"] / rows["propensity"]).to_numpy(),
            q_logged=rows["q"].to_numpy(),
            v_target=rows["v"].to_numpy(),
            # Every row of these logs is an impression.
            seen=np.ones(len(rows)),
        )


def _model(log: pl.DataFrame, target: pl.DataFrame) -> pl.DataFrame:
    """q of each combination that the log holds, and v: its mean over the items that the target would take instead."""
    contexts = log.select("fold", "position", *_USER).unique(maintain_order=True)
    cells = contexts.join(target, on="position")
    counts = reward_model.count(log, categories=_CATEGORIES)
    predicted = reward_model.predictions(counts, cells=cells, categories=_CATEGORIES)
    value = (pl.col("q") * pl.col("probability")).sum() / pl.col("probability").sum()
    return predicted.with_columns(value.over("fold", "position", *_USER).alias("v")).drop("probability")


def _shares(log: pl.DataFrame) -> pl.DataFrame:
    """Share of each item at each position. A mean of the logged propensities would be larger: items are drawn when they are likely."""
    shown = log.group_by("item_id", "position").agg(pl.len().alias("shown"))
    return shown.select("item_id", "position", (pl.col("shown") / pl.col("shown").sum().over("position")).alias("probability"))


def _pairs(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("item_id").unique().sort("item_id").join(rows.select("position").unique().sort("position"), how="cross")


def _read_csv(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    try:
        return pl.read_csv(path, columns=list(columns)).select(columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(
            f"{path}: cannot be read with the columns {', '.join(columns)} ({str(error).splitlines()[0]}); check the file"
        ) from error
