"""What the gate wants of a row beside its reward, small enough to keep for every row of a contest. Pure: a table in, columns out."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from bandits.features import Schema
from ope.errors import GateError
from ope.gate.calibration import Draws
from ope.observed import Observed, padded
from protos.config import nearest

__all__ = ["COLUMNS", "draws", "segments", "with_facts"]

# Columns of an observation that are kept as they are.
COLUMNS = ("snapshot_digest", "arm", "arm_probability")
_ACTION, _CANDIDATES, _SET, _SEGMENT = "first_action", "candidate_count", "candidate_set", "segment:"
_NUMERATORS = float(2**31)


def with_facts(slim: pa.Table, revisions: pa.Table, *, schema: Schema, features: Sequence[str]) -> pa.Table:
    """`slim` with columns worked out of `revisions` (the same rows, whole). Raises GateError for an unknown feature."""
    frame = pl.from_arrow(revisions.select(["slot_action", "candidate_actions", "candidate_eligible"]))
    assert isinstance(frame, pl.DataFrame)
    eligible, actions = pl.col("candidate_eligible"), pl.col("candidate_actions")
    count = pl.when(eligible.list.len() > 0).then(eligible.list.eval(pl.element().cast(pl.Int64)).list.sum()).otherwise(actions.list.len())
    candidates = pl.concat_str(
        actions.list.join("\x1f"), eligible.list.eval(pl.element().cast(pl.Int8).cast(pl.String)).list.join(""), separator="\x1e"
    )
    facts = frame.select(
        pl.col("slot_action").list.first().fill_null("").alias(_ACTION),
        count.cast(pl.Int64).alias(_CANDIDATES),
        candidates.hash(seed=0).alias(_SET),
    )
    for name in facts.columns:
        slim = slim.append_column(name, facts[name].to_arrow())
    context = padded(revisions["context"])[0] if features else np.zeros((0, 0))
    for feature in features:
        slim = slim.append_column(_SEGMENT + feature, pa.array(_labels(context, schema, feature)))
    return slim


def draws(rows: pa.Table, seen: Observed) -> Draws:
    """The first slot of each row, for calibration."""
    candidate_set = rows[_SET].to_numpy()
    values, counts = np.unique(candidate_set, return_counts=True)
    return Draws(
        version=np.asarray(rows["snapshot_digest"].fill_null("").to_pylist(), np.str_),
        action=np.asarray(rows[_ACTION].to_pylist(), np.str_),
        propensity=seen.numerator[:, 0] / _NUMERATORS,
        candidates=np.maximum(rows[_CANDIDATES].to_numpy(), 1),
        comparable=candidate_set == (values[counts.argmax()] if len(values) else 0),
    )


def segments(rows: pa.Table) -> dict[str, npt.NDArray[np.str_]]:
    """Segment of each row by feature: true or false, the largest part of several numbers, or the sign of one."""
    names = [name for name in rows.column_names if name.startswith(_SEGMENT)]
    return {name.removeprefix(_SEGMENT): np.asarray(rows[name].to_pylist(), np.str_) for name in names}


def _labels(context: npt.NDArray[np.float64], schema: Schema, feature: str) -> list[str]:
    known = [item.name for item in schema.context]
    if feature not in known:
        raise GateError(f"gate.segments: {feature!r} is no feature of the context; {nearest(feature, known)}")
    place = known.index(feature)
    start = sum(item.width for item in schema.context[:place])
    block, item = context[:, start : start + schema.context[place].width], schema.context[place]
    if item.type == "bool":
        return np.where(block[:, 0] > 0, "true", "false").tolist()
    if item.width > 1:
        return [f"part {part}" for part in block.argmax(axis=1).tolist()]
    return np.where(block[:, 0] > 0, "above 0", "0 or below").tolist()
