"""Effects of arms from a table: compressed once for all outcomes that are known for the same rows, fitted overall and by segment. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bandits.effects.cells import Cells, compress
from bandits.effects.config import EffectsFile
from bandits.effects.design import Design, Part, arms_part, assembled, centred, intercept, parts_of, products
from bandits.effects.experiment import Experiment
from bandits.effects.fit import Dropped, Fit, Normal, fit, normal
from bandits.effects.plain import Column
from bandits.effects.sample import Sample, check_overlap, complete
from bandits.effects.within import levels_of, within_cells, within_design
from bandits.errors import ExperimentError

__all__ = [
    "RECEIVED",
    "Fitted",
    "SegmentOf",
    "absorbed_of",
    "cells_of",
    "check_arms",
    "check_outcome",
    "clusters_of_arms",
    "compressed",
    "equations_of",
    "fitted",
    "segments_of",
]

#: What was received, among the columns and the outcomes of the cells; no term of a config reads so.
RECEIVED = "(received)"
# A factor of more levels is taken out of the regression, so that no matrix grows with them.
_MANY_LEVELS = 256
# A dense matrix of normal equations of so many columns takes 200 MB.
_MOST_COLUMNS = 5_000


class SegmentOf(NamedTuple):
    """A level of a segment column."""

    name: str
    level: str
    code: int


class Fitted(NamedTuple):
    """A regression of one outcome on some cells, with what it was fitted on; `columns_mean` f64[p] weighted means of its raw columns.

    `absorbed`: the factor that was taken out, if any, instead of so many columns.
    """

    fit: Fit
    cells: Cells
    dropped: tuple[Dropped, ...]
    columns_mean: np.ndarray
    absorbed: str | None = None
    absorbed_columns: int = 0


def compressed(experiment: Experiment, file: EffectsFile) -> Iterator[tuple[Cells, Sample, tuple[str, ...]]]:
    """Cells with the outcomes that are known for the same rows, one item for each such set of rows.

    Raises ExperimentError for a constant outcome, fewer than two arms, or arms without overlap.
    """
    named = [experiment.arms, *experiment.covariates.values(), *experiment.modifiers.values()]
    named += [each for each in (experiment.weight, experiment.cluster, experiment.received) if each is not None]
    for names in _alike(experiment.outcomes):
        sample = complete([*_once(named), experiment.outcomes[names[0]]], rows=experiment.rows)
        sample = sample if experiment.weight is None else sample._replace(kept=sample.kept & (experiment.weight.values > 0.0))
        cells = cells_of(experiment, file, sample.kept, names)
        _check(experiment, cells, names)
        yield cells, sample, names


def fitted(experiment: Experiment, file: EffectsFile, cells: Cells, names: Sequence[str]) -> dict[str, Fitted]:
    """A regression of each outcome on these cells: intercept, arms, modifiers with their products, covariates.

    Raises ExperimentError where an arm is missing, an outcome is constant, or an arm cannot be told from the covariates.
    """
    absorbed = absorbed_of(experiment, file, cells)
    equations = equations_of(experiment, file, cells, absorbed=absorbed)
    within = cells if absorbed is None else within_cells(cells, levels_of(cells.columns[absorbed], equations.weight))
    kinds = file.error_kinds
    mean = equations.design.mean(equations.weight)
    return {
        name: Fitted(fit(equations, within, name, errors=kinds), cells, equations.dropped, mean, absorbed, equations.absorbed)
        for name in names
    }


def absorbed_of(experiment: Experiment, file: EffectsFile, cells: Cells) -> str | None:
    """The factor among the covariates that is taken out rather than expanded: the one of most levels, where they are many.

    Raises ExperimentError where the file asks for something that needs its columns.
    """
    sizes = {
        name: len(np.unique(cells.columns[name]))
        for name, each in experiment.covariates.items()
        if each.is_factor and name not in experiment.modifiers
    }
    name = max(sizes, key=lambda name: sizes[name], default=None)
    if name is None or sizes[name] <= _MANY_LEVELS:
        return None
    for asked, given in (
        ("ridge", file.ridge),
        ("ridge_path", file.ridge_path),
        ("bootstrap", file.bootstrap),
        ("received", file.received),
    ):
        if given:
            raise ExperimentError(
                f"{asked}: {name!r} has {sizes[name]} levels, and more than {_MANY_LEVELS} are taken out of the regression, which "
                f"`{asked}` does not go with; leave one of the two out"
            )
    if file.error_kind in ("hc2", "hc3"):
        raise ExperimentError(f"errors: {file.error_kind} with {sizes[name]} levels of {name!r} is not offered; take hc1 or cluster")
    return name


def equations_of(experiment: Experiment, file: EffectsFile, cells: Cells, *, absorbed: str | None = None) -> Normal:
    """The normal equations of intercept, arms, modifiers with their products, and covariates, within the levels of `absorbed`.

    Raises ExperimentError, as `fitted`.
    """
    weight = next(iter(cells.sums.values())).weight
    arms = arms_part(cells.columns[""], experiment.arms.levels or (), control=experiment.control)
    design = _design(experiment, cells, arms, weight, absorbed)
    levels = None if absorbed is None else levels_of(cells.columns[absorbed], weight)
    if levels is not None:
        design = within_design(design, levels)
    penalised = np.arange(len(design.names)) > len(arms.names)
    found = normal(design, weight, penalty=file.ridge, penalised=penalised)
    _arms_are_told_apart(found.dropped, arms.names, absorbed)
    if levels is None or absorbed is None:
        return found
    dropped = tuple(each if each.of else Dropped(each.column, "constant within levels", (absorbed,)) for each in found.dropped)
    return found._replace(absorbed=int(np.count_nonzero(levels.total)) - 1, dropped=dropped)


def _design(experiment: Experiment, cells: Cells, arms: Part, weight: np.ndarray, absorbed: str | None) -> Design:
    levels = {name: each.levels for name, each in (*experiment.covariates.items(), *experiment.modifiers.items())}
    modifiers = parts_of({name: cells.columns[name] for name in experiment.modifiers}, levels, weight)
    left = (*experiment.modifiers, *([] if absorbed is None else [absorbed]))
    others = {name: cells.columns[name] for name in experiment.covariates if name not in left}
    parts = [intercept(cells.size), arms, *modifiers, *parts_of(others, levels, weight)]
    parts += products(arms, [centred(part, weight) for part in modifiers])
    width = sum(len(part.names) for part in parts)
    if width > _MOST_COLUMNS:
        raise ExperimentError(
            f"covariates: their factors make {width} columns, more than {_MOST_COLUMNS}; one factor may have any number of levels, the "
            "others not: leave one out, or make its levels coarser"
        )
    return assembled(parts)


def _arms_are_told_apart(dropped: Sequence[Dropped], arms: Sequence[str], absorbed: str | None) -> None:
    for each in dropped:
        told = [name for name in each.of if name in arms]
        if each.column in arms or told:
            raise ExperimentError(
                f"covariates: {absorbed or each.column!r} and the arms {told or [each.column]} determine each other: the arms have no "
                "overlap in it; leave it out"
            )


def cells_of(experiment: Experiment, file: EffectsFile, kept: np.ndarray, names: Sequence[str], *, drawn: bool = False) -> Cells:
    """Cells of the rows `kept` bool[n]; `drawn`: the outcomes are among their columns, so that rows of a cell are alike in all."""
    columns = {"": experiment.arms.values[kept]}
    columns |= {name: each.values[kept] for name, each in (*experiment.covariates.items(), *experiment.modifiers.items())}
    outcomes = {name: experiment.outcomes[name].values[kept] for name in names}
    if drawn:
        columns |= {f"outcome {name}": values for name, values in outcomes.items()}
    if experiment.received is not None:
        columns[RECEIVED] = outcomes[RECEIVED] = experiment.received.values[kept]
    # A level -1 is a row whose segment is not known: it counts overall, and in no segment.
    for name, each in experiment.segments.items():
        columns[_key(name)] = np.where(each.missing, -1, each.values)[kept].astype(np.int64)
    return compress(
        columns,
        outcomes,
        weight=None if experiment.weight is None else experiment.weight.values[kept],
        frequency=file.weights is not None and file.weights.kind == "frequency",
        cluster=None if experiment.cluster is None else experiment.cluster.values[kept].astype(np.int64),
    )


def segments_of(experiment: Experiment, cells: Cells) -> Iterator[tuple[SegmentOf, Cells]]:
    """The cells of each level of each segment."""
    for name, each in experiment.segments.items():
        codes = cells.columns[_key(name)]
        for code, level in enumerate(each.levels or ()):
            if (codes == code).any():
                yield SegmentOf(name, level, code), cells.where(codes == code)


def check_arms(experiment: Experiment, cells: Cells) -> None:
    """At least the control and one other arm are there. Raises ExperimentError."""
    names = experiment.arms.levels or ()
    present = [names[code] for code in np.unique(cells.columns[""])]
    if names[experiment.control] not in present or len(present) < 2:
        raise ExperimentError(f"treatment: only {present} among the rows that are used; an effect needs the control and another arm")


def clusters_of_arms(experiment: Experiment, cells: Cells) -> dict[str, int]:
    """How many clusters each arm has; none where there are no clusters."""
    parts = cells.clustered
    if parts is None:
        return {}
    arms, names = cells.columns[""], experiment.arms.levels or ()
    return {names[code]: len(np.unique(parts.cluster[arms[parts.cell] == code])) for code in np.unique(arms)}


def check_outcome(cells: Cells, name: str) -> None:
    """The outcome varies. Raises ExperimentError."""
    sums = cells.sums[name]
    if np.ptp(sums.mean) == 0.0 and not sums.spread.any():
        raise ExperimentError(f"outcomes: {name!r} is constant ({sums.mean[0]:g} in every row that is used); it tells of no effect")


def _check(experiment: Experiment, cells: Cells, names: Sequence[str]) -> None:
    check_arms(experiment, cells)
    if set(clusters_of_arms(experiment, cells).values()) == {1}:
        raise ExperimentError("cluster: each arm is one cluster, which says nothing of the error; name the column that was assigned by")
    for name in names:
        check_outcome(cells, name)
    covariates = [each._replace(values=cells.columns[name]) for name, each in experiment.covariates.items()]
    check_overlap(cells.columns[""], experiment.arms.levels or (), covariates)


def _alike(outcomes: Mapping[str, Column]) -> list[tuple[str, ...]]:
    """Names of the outcomes that are missing in the same rows."""
    found: dict[bytes, list[str]] = {}
    for name, each in outcomes.items():
        found.setdefault(np.packbits(each.missing).tobytes(), []).append(name)
    return [tuple(names) for names in found.values()]


def _once(columns: Sequence[Column]) -> list[Column]:
    return list({each.name: each for each in columns}.values())


def _key(segment: str) -> str:
    return f"segment {segment}"
