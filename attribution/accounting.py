"""Where every decision is: logged = joined + pending + expired + quarantined, counted from the rows themselves. Pure.

logged: distinct decision ids that have landed (and records of the decision log that are no event, each by its position). joined: has a
row. quarantined: no copy of it can be used, by reason. pending: can be used, has no row yet. expired: deleted, on request or by
age, with the row if it had one. The four are counted each by itself, so the equation is a check and not a definition.
"""

import dataclasses
from collections.abc import Mapping

import polars as pl

from attribution.admission import judge
from attribution.erasure import ERASED, EXPIRED
from attribution.settings import JoinConfig

__all__ = ["ACCOUNT_COLUMNS", "Account", "account"]

# Columns of `events` that the account needs.
ACCOUNT_COLUMNS = (
    "topic",
    "partition",
    "offset",
    "append_time_us",
    "kind",
    "fault",
    "tenant",
    "task",
    "decision_id",
    "event_time_us",
    "name",
    "final",
)


@dataclasses.dataclass(frozen=True)
class Account:
    """Decisions by where they are. `reasons` splits `quarantined`; `closes` says whether the equation holds."""

    logged: int
    joined: int
    pending: int
    expired: int
    quarantined: int
    reasons: Mapping[str, int]

    @property
    def closes(self) -> bool:
        """logged = joined + pending + expired + quarantined."""
        return self.logged == self.joined + self.pending + self.expired + self.quarantined


def account(landed: pl.DataFrame, joined_ids: pl.Series, *, config: JoinConfig) -> Account:
    """The account of landed decisions and undecodable records (ACCOUNT_COLUMNS) and the decision ids in the observations."""
    nameless = pl.format("{}/{}/{}", "topic", "partition", "offset").cast(pl.Binary)
    unnamed = pl.col("decision_id").is_null() | (pl.col("decision_id").bin.size() == 0)
    judged = judge(landed, config=config).with_columns(id=pl.when(unnamed).then(nameless).otherwise("decision_id"))
    joined = joined_ids.unique().implode()
    usable = judged.filter(pl.col("fault").is_null())["id"].unique()
    refused = judged.filter(~pl.col("id").is_in(usable.implode()) & ~pl.col("id").is_in(joined)).unique(
        "id", keep="first", maintain_order=True
    )
    gone = pl.col("fault").is_in([ERASED, EXPIRED])
    quarantined = refused.filter(~gone)
    return Account(
        logged=judged["id"].n_unique(),
        joined=joined_ids.n_unique(),
        pending=int((~usable.is_in(joined)).sum()),
        expired=refused.filter(gone).height,
        quarantined=quarantined.height,
        reasons=dict(quarantined.group_by("fault").len().sort("fault").iter_rows()),
    )
