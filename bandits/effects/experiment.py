"""The columns of a table by the roles that the file of `bandits effects` gives them. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from bandits.effects.columns import as_factor, column
from bandits.effects.config import EffectsFile
from bandits.effects.plain import Column, coded
from bandits.effects.sample import arms_of, check_before
from bandits.errors import ExperimentError

__all__ = ["Experiment", "binned", "experiment_of"]

# What the regression names itself, beside the arms.
_OWN = ("", "intercept")
# A segment by a number with more values than this is cut into quarters.
_MOST_VALUES = 12
# Segments of more levels are no table that anybody reads.
_MOST_SEGMENTS = 1_000


class Experiment(NamedTuple):
    """Columns of a table by their role. `weight` and `cluster` are None where there are none; a segment is a factor."""

    rows: int
    arms: Column
    control: int
    outcomes: Mapping[str, Column]
    covariates: Mapping[str, Column]
    modifiers: Mapping[str, Column]
    segments: Mapping[str, Column]
    weight: Column | None
    cluster: Column | None
    received: Column | None


def experiment_of(table: pa.Table, file: EffectsFile) -> Experiment:
    """The columns that a config names. Raises ExperimentError for any that cannot play its part."""
    arms, control = arms_of(table, file.treatment, file.control)
    if not file.outcomes:
        raise ExperimentError("outcomes: none is named; name a column of numbers")
    check_before(table, {"covariates": file.covariates, "modifiers": file.modifiers}, treatment=file.treatment, outcomes=file.outcomes)
    taken = (*(arms.levels or ()), *_OWN)
    return Experiment(
        rows=table.num_rows,
        arms=arms,
        control=control,
        outcomes={name: _outcome(table, name) for name in file.outcomes},
        covariates={_told_apart(term, taken): column(table, term, role="covariates") for term in file.covariates},
        modifiers={_told_apart(term, taken): column(table, term, role="modifiers") for term in file.modifiers},
        segments={name: _segment(column(table, name, role="segments")) for name in file.segments},
        weight=None if file.weights is None else _weight(table, file.weights.column, kind=file.weights.kind),
        cluster=None if file.cluster is None else coded(table, file.cluster, role="cluster"),
        received=None if file.received is None else _outcome(table, file.received, role="received"),
    )


def binned(experiment: Experiment, *, bins: int) -> tuple[Experiment, dict[str, float]]:
    """The experiment with each number among its covariates replaced by the mean of its quantile bin; and the share of its variance lost."""
    lossy, lost = {}, {}
    for name, each in experiment.covariates.items():
        if each.is_factor or name in experiment.modifiers:
            lossy[name] = each
            continue
        known = each.values[~each.missing]
        edges = np.unique(np.quantile(known, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
        code = np.searchsorted(edges, each.values, side="left")
        means = np.bincount(code[~each.missing], known, len(edges) + 1) / np.maximum(
            np.bincount(code[~each.missing], minlength=len(edges) + 1), 1
        )
        lossy[name] = each._replace(values=means[code])
        lost[name] = float(np.mean((known - means[code[~each.missing]]) ** 2) / max(float(known.var()), np.finfo(np.float64).tiny))
    return experiment._replace(covariates=lossy), lost


def _outcome(table: pa.Table, name: str, *, role: str = "outcomes") -> Column:
    found = column(table, name, role=role)
    if found.is_factor:
        raise ExperimentError(f"{role}: column {name!r} holds words such as {(found.levels or ('',))[0]!r}; name a column of numbers")
    return found


def _told_apart(term: str, taken: Sequence[str]) -> str:
    """A covariate's name in the regression: its term, unless an arm or the intercept has that name."""
    return f"{term} (covariate)" if term in taken else term


def _segment(found: Column) -> Column:
    if found.levels is not None and len(found.levels) > _MOST_SEGMENTS:
        raise ExperimentError(
            f"segments: column {found.name!r} has {len(found.levels)} levels, more than {_MOST_SEGMENTS}; name a coarser one"
        )
    if found.is_factor or len(np.unique(found.values[~found.missing])) <= _MOST_VALUES:
        return as_factor(found, role="segments")
    edges = np.unique(np.quantile(found.values[~found.missing], [0.25, 0.5, 0.75]))
    ends = ["lowest", *(f"{edge:g}" for edge in edges), "highest"]
    levels = [f"above {low} to {high}" if low != "lowest" else f"up to {high}" for low, high in itertools.pairwise(ends)]
    return found._replace(values=np.searchsorted(edges, found.values, side="left"), levels=tuple(levels))


def _weight(table: pa.Table, name: str, *, kind: str) -> Column:
    found = column(table, name, role="weights")
    if found.is_factor:
        raise ExperimentError(f"weights: column {name!r} holds words; name a column of numbers >= 0")
    values = found.values[~found.missing]
    if (values < 0.0).any():
        raise ExperimentError(f"weights: column {name!r} holds {values.min():g}; weights are >= 0")
    if kind == "frequency" and not np.all(values == np.floor(values)):
        raise ExperimentError(f"weights: column {name!r} holds {values[values != np.floor(values)][0]:g}; a frequency is a whole number")
    return found
