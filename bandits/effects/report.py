"""What `bandits effects` prints: plain data with every number finite, or a reason in its place. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bandits.effects.beside import bootstrap_lines, check_beside, path_lines
from bandits.effects.cells import Cells
from bandits.effects.config import EffectsFile
from bandits.effects.estimate import Fitted, check_arms, check_outcome, clusters_of_arms, compressed, fitted, segments_of
from bandits.effects.experiment import Experiment, binned, experiment_of
from bandits.effects.fit import Dropped
from bandits.effects.received import received_line
from bandits.effects.sample import Sample
from bandits.errors import ExperimentError

__all__ = ["effects_report"]

# The exact report that bins are compared with needs no more than the effects.
_PLAIN: dict[str, Any] = {"bins": None, "segments": (), "bootstrap": None, "ridge_path": ()}
# Fewer rows of an arm, or fewer clusters, than this make errors that are too small.
_FEW_ROWS, _FEW_CLUSTERS = 10, 20


def effects_report(table: pa.Table, file: EffectsFile) -> dict[str, Any]:
    """Effects of every arm on every outcome, overall and by segment.

    Raises ExperimentError where the whole cannot be estimated; a segment that cannot says why in its place.
    """
    kind = file.error_kind
    check_beside(file)
    exact = experiment_of(table, file)
    experiment, lost = (exact, {}) if file.bins is None else binned(exact, bins=file.bins)
    names = experiment.arms.levels or ()
    outcomes = [item for part in compressed(experiment, file) for item in _outcomes(experiment, file, *part)]
    if file.bins is not None:
        _say_what_was_lost(outcomes, effects_report(table, file.model_copy(update=_PLAIN)), lost)
    order = {name: at for at, name in enumerate(file.outcomes)}
    return {
        "data": file.data,
        "treatment": file.treatment,
        "control": names[experiment.control],
        "arms": list(names),
        "errors": kind,
        "level": file.level,
        "weights": None if file.weights is None else file.weights.model_dump(mode="json"),
        "cluster": file.cluster,
        "covariates": list(file.covariates),
        "outcomes": sorted(outcomes, key=lambda item: order[item["outcome"]]),
    }


def _outcomes(experiment: Experiment, file: EffectsFile, cells: Cells, sample: Sample, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    overall = fitted(experiment, file, cells, names)
    for name in names:
        yield {
            "outcome": name,
            "rows": sample.account,
            "cells": cells.size,
            **_effects(experiment, file, overall[name], name),
            **({"bootstrap": bootstrap_lines(experiment, file, sample.kept, name)} if file.bootstrap else {}),
            **({"ridge_path": path_lines(experiment, file, sample.kept, name)} if file.ridge_path else {}),
            "doubts": _doubts(experiment, file, cells),
            **({} if experiment.received is None else {"received": received_line(experiment, file, cells, name)}),
            "segments": [_segment(experiment, file, part, name) for part in segments_of(experiment, cells)],
        }


def _say_what_was_lost(outcomes: list[dict[str, Any]], exact: dict[str, Any], lost: dict[str, float]) -> None:
    """Beside each outcome: the share of each covariate's variance that bins lose, and what they make of every error."""
    whole = {item["outcome"]: {line["arm"]: line for line in item["effects"]} for item in exact["outcomes"]}
    cells = {item["outcome"]: item["cells"] for item in exact["outcomes"]}
    for item in outcomes:
        lines = whole[item["outcome"]]
        inflation = {line["arm"]: _inflation(line["standard_error"], lines[line["arm"]]["standard_error"]) for line in item["effects"]}
        item["lossy"] = {"cells_without_bins": cells[item["outcome"]], "information_lost": lost, "error_inflation": inflation}


def _inflation(binned_error: float, exact: float) -> float | None:
    """By how much an error grew; null where there was none."""
    return binned_error / exact - 1.0 if exact > 0.0 else None


def _segment(experiment: Experiment, file: EffectsFile, part: Any, name: str) -> dict[str, Any]:
    segment, cells = part
    head = {"segment": segment.name, "level": segment.level, "rows": int(cells.rows.sum())}
    try:
        check_arms(experiment, cells)
        check_outcome(cells, name)
        return {**head, **_effects(experiment, file, fitted(experiment, file, cells, [name])[name], name)}
    except ExperimentError as error:
        return {**head, "effects": [], "reason": str(error)}


def _doubts(experiment: Experiment, file: EffectsFile, cells: Cells) -> list[str]:
    """What makes the errors less sure than they look."""
    found = []
    for code, arm in enumerate(experiment.arms.levels or ()):
        rows = int(cells.rows[cells.columns[""] == code].sum())
        if 0 < rows < _FEW_ROWS:
            found.append(f"arm {arm!r} has {rows} rows only: robust errors of so few are too small; homoskedastic ones hold better")
        if rows == 0:
            found.append(f"arm {arm!r} has no row with all values, so no effect")
    for arm, count in clusters_of_arms(experiment, cells).items():
        if count < _FEW_CLUSTERS:
            found.append(f"arm {arm!r} has {count} clusters: errors of fewer than {_FEW_CLUSTERS} are too small")
    return found


def _effects(experiment: Experiment, file: EffectsFile, found: Fitted, name: str) -> dict[str, Any]:
    control = found.cells.columns[""] == experiment.control
    sums = found.cells.sums[name]
    arms = [arm for arm in experiment.arms.levels or () if arm in found.fit.names]
    main = [coefficient_line(file, found, arm) for arm in arms]
    for line in main:
        code = (experiment.arms.levels or ()).index(line["arm"])
        line["rows"] = int(found.cells.rows[found.cells.columns[""] == code].sum())
    products = [coefficient_line(file, found, column) for column in found.fit.names if any(column.startswith(f"{arm} x ") for arm in arms)]
    return {
        "control_mean": float(np.average(sums.mean[control], weights=sums.weight[control])),
        "control_rows": int(found.cells.rows[control].sum()),
        "effects": main,
        "means": _means(experiment, file, found, name),
        **({"interactions": products} if products else {}),
        **({"clusters": found.fit.clusters} if file.cluster else {}),
        "coefficients": [coefficient_line(file, found, column) for column in found.fit.names if column not in arms],
        **({} if found.absorbed is None else {"absorbed": {"column": found.absorbed, "levels": found.absorbed_columns + 1}}),
        "dropped_columns": [_dropped(each) for each in found.dropped],
    }


def _means(experiment: Experiment, file: EffectsFile, found: Fitted, name: str) -> list[dict[str, Any]]:
    """What the outcome would be if everybody had each arm: the model averaged over these rows, with delta-method errors."""
    weights = found.columns_mean.copy()
    names, arms, kind = found.fit.names, experiment.arms.levels or (), file.error_kind
    places = {arm: names.index(arm) for arm in arms if arm in names}
    # Modifiers are centred, so their products with an arm that everybody has are zero on average.
    weights[[at for at, column in enumerate(names) if any(column.startswith(f"{arm} x ") for arm in places)]] = 0.0
    lines = []
    for arm in [arms[experiment.control], *places]:
        for other, place in places.items():
            weights[place] = float(other == arm)
        value, error = found.fit.combined(weights, kind)
        interval = list(found.fit.interval(value, error, kind, level=file.level))
        lines.append({"arm": arm, "mean": value, "standard_error": error, "interval": interval})
    return lines


def coefficient_line(file: EffectsFile, found: Fitted, column: str) -> dict[str, Any]:
    """One coefficient with its errors of every kind; null where an error is zero and so no test can be made."""
    at, kind = found.fit.names.index(column), file.error_kind
    value, error = float(found.fit.coefficient[at]), float(found.fit.error(kind)[at])
    p_value = found.fit.p_value(value, error, kind)
    return {
        "arm": column,
        "effect": value,
        "standard_error": error,
        "interval": list(found.fit.interval(value, error, kind, level=file.level)),
        "p_value": p_value if p_value == p_value else None,
        "standard_errors": {each: float(found.fit.error(each)[at]) for each in file.error_kinds},
    }


def _dropped(each: Dropped) -> dict[str, Any]:
    said = {"column": each.column, "because": each.because}
    return {**said, "of": list(each.of)} if each.of else said
