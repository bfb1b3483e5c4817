"""Every landed event that the join can't use, with its place and the reason: a function of what has landed and the config. Pure.

Nothing is kept apart for this: an event that can't be used has landed as it came, so the list is right after a config is mended, and a
deletion needs to be obeyed in one place only. Reasons are those of `admission.REASONS`, and

    late          logged when its decision took nothing any more
    no_decision   its decision has not come (it may yet)
"""

import polars as pl

from attribution.admission import judge
from attribution.credit import unattributed
from attribution.derive import derive
from attribution.events import DAMAGE
from attribution.settings import JoinConfig

__all__ = ["LETTER_COLUMNS", "by_producer", "dead_letters"]

_PLACE = ("topic", "partition", "offset")
LETTER_COLUMNS = (*_PLACE, "kind", "producer", "event_time_us", "reason")


def dead_letters(landed: pl.DataFrame, *, config: JoinConfig) -> pl.DataFrame:
    """LETTER_COLUMNS and `payload`, by place. `landed` has the columns of EVENT_SCHEMA. Damage is no event and not in it."""
    # By its row: the events of one message (an Arrow batch) share a place.
    landed = landed.with_row_index("event")
    judged = judge(landed.filter(pl.col("kind") != DAMAGE), config=config)
    alone = judged.filter(pl.col("fault").is_not_null()).with_columns(reason="fault")
    sound = judged.filter(pl.col("fault").is_null()).select(landed.columns)
    decisions = (
        sound.filter(pl.col("kind") == "decision").sort("append_time_us", "payload").unique(["partition", "decision_id"], keep="first")
    )
    feedback = sound.filter(pl.col("kind").is_in(["impression", "reward"]))
    contradicting = derive(decisions, feedback, config=config).refused
    homeless = (
        feedback.filter(~unattributed())
        .join(decisions, on=["partition", "decision_id"], how="anti")
        .with_columns(reason=pl.lit("no_decision"))
    )
    reasons = pl.concat([frame.select("event", "reason") for frame in (alone, contradicting, homeless)])
    found = landed.join(reasons.unique("event", keep="first", maintain_order=True), on="event", how="inner")
    return found.select(*LETTER_COLUMNS, "payload").sort(_PLACE)


def by_producer(letters: pl.DataFrame, landed: pl.DataFrame) -> pl.DataFrame:
    """Dead letters of each producer and reason, and their share of all that the producer sent."""
    sent = landed.group_by(pl.col("producer").fill_null("")).agg(sent=pl.len())
    counted = letters.group_by(pl.col("producer").fill_null(""), "reason").agg(letters=pl.len())
    return counted.join(sent, on="producer").with_columns(rate=pl.col("letters") / pl.col("sent")).sort("producer", "reason")
