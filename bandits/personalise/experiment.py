"""The rows of a table by the file of `bandits personalise`: arms, outcomes, covariates, known probabilities, and the two halves. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bandits.effects.columns import column
from bandits.effects.plain import Column, coded
from bandits.effects.sample import Sample, arm_named, arms_of, check_before, check_overlap, complete
from bandits.errors import ExperimentError
from bandits.personalise.config import PersonaliseFile
from bandits.personalise.encoding import Encoding, encoding_of
from protos import config

__all__ = ["Logged", "logged"]

# Fewer rows of an arm in a half than this say nothing of a policy.
_FEWEST = 10
# Standard errors by which the mean of 1[A = a] / p may miss one before the probabilities are doubted; 6e-5 a arm if they are right.
_DOUBTED = 4.0
# Probabilities that were rounded to two digits for three arms sum to 0.99; they are scaled to one.
_OFF = 0.0105


class Logged(NamedTuple):
    """Rows with an arm and every outcome.

    `x` f64[n, d] by `encoding`; `arm` i64[n] of `arms`; `outcomes` f64[n] each; `weights` of them; `costs` f64[K]; `propensity` f64[n] of
    the arm that each row got, and `assignment`, what is said of it; `cluster` i64[n] or None; `train`, `test` i64[n / 2]: the halves.
    """

    x: np.ndarray
    encoding: Encoding
    arm: np.ndarray
    arms: tuple[str, ...]
    outcomes: Mapping[str, np.ndarray]
    weights: Mapping[str, float]
    costs: np.ndarray
    propensity: np.ndarray
    assignment: Mapping[str, Any]
    cluster: np.ndarray | None
    train: np.ndarray
    test: np.ndarray
    sample: Sample
    left_out: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def utility(self) -> np.ndarray:
        """Weighted outcomes of each row, before costs, f64[n]."""
        return np.sum([self.weights[name] * values for name, values in self.outcomes.items()], axis=0)


def logged(table: pa.Table, file: PersonaliseFile) -> Logged:
    """Reads the experiment. Raises ExperimentError for anything from which no policy can be learned or judged."""
    arms, _ = arms_of(table, file.treatment, None)
    file = _with_arms(file, arms.levels or ())
    outcomes = {name: _numbers(table, name, role="outcomes") for name in file.outcomes}
    covariates = _covariates(table, file)
    cluster = None if file.cluster is None else coded(table, file.cluster, role="cluster")
    given = _given(table, file)
    sample = complete([arms, *outcomes.values(), *given.values(), *([] if cluster is None else [cluster])], rows=table.num_rows)
    kept = np.flatnonzero(sample.kept)
    order = np.random.default_rng(file.seed).permutation(len(kept))
    train, test = order[: len(kept) // 2], order[len(kept) // 2 :]
    known = {name: each._replace(values=each.values[kept], missing=each.missing[kept]) for name, each in covariates.items()}
    names, codes = arms.levels or (), arms.values[kept].astype(np.int64)
    values = {name: each.values[kept] for name, each in outcomes.items()}
    _check(codes, names, values, known, (train, test))
    propensity, assignment = _propensity(file, codes, names, {key: each.values[kept] for key, each in given.items()})
    encoding = encoding_of(known, train)
    used = {feature.name for feature in encoding.features}
    if not used:
        raise ExperimentError(f"covariates: none of {list(known)} varies among the rows that train; name one that tells units apart")
    return Logged(
        x=encoding.matrix(known),
        encoding=encoding,
        arm=codes,
        arms=names,
        outcomes=values,
        weights=file.outcomes,
        costs=_costs(file, names),
        propensity=propensity,
        assignment=assignment,
        cluster=None if cluster is None else cluster.values[kept].astype(np.int64),
        train=train,
        test=test,
        sample=sample._replace(missing={**sample.missing, **_filled(known)}),
        left_out=tuple(name for name in known if name not in used),
        doubts=tuple(_doubts(codes, names, propensity)),
    )


def _with_arms(file: PersonaliseFile, names: tuple[str, ...]) -> PersonaliseFile:
    """The file with arms by the names that they have here, in costs and probabilities."""
    changed: dict[str, Any] = {"costs": _named(file.costs, names, role="costs")}
    if isinstance(file.propensities, dict):
        changed["propensities"] = _named(file.propensities, names, role="propensities")
    return file.model_copy(update=changed)


def _named(given: Mapping[str, Any], names: tuple[str, ...], *, role: str) -> dict[str, Any]:
    for arm in given:
        if arm_named(arm, names) is None:
            raise ExperimentError(f"{role}: {arm!r} is no arm; {config.nearest(arm, names)}")
    return {str(arm_named(arm, names)): each for arm, each in given.items()}


def _numbers(table: pa.Table, name: str, *, role: str) -> Column:
    found = column(table, name, role=role)
    if found.is_factor:
        raise ExperimentError(f"{role}: column {name!r} holds words such as {(found.levels or ('',))[0]!r}; name a column of numbers")
    return found


def _covariates(table: pa.Table, file: PersonaliseFile) -> dict[str, Column]:
    check_before(table, {"covariates": file.covariates}, treatment=file.treatment, outcomes=file.outcomes)
    if not file.covariates:
        raise ExperimentError("covariates: none is named; a personalised policy needs something to go by")
    return {term: column(table, term, role="covariates") for term in file.covariates}


def _given(table: pa.Table, file: PersonaliseFile) -> dict[str, Column]:
    """The columns of probabilities that the file names, by arm; "" = of the arm that the row got."""
    given = file.propensities
    if isinstance(given, str):
        return {"": _numbers(table, given, role="propensities")}
    named = {arm: each for arm, each in (given or {}).items() if isinstance(each, str)}
    return {arm: _numbers(table, each, role=f"propensities.{arm}") for arm, each in named.items()}


def _propensity(
    file: PersonaliseFile, codes: np.ndarray, names: tuple[str, ...], columns: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, Any]]:
    if file.propensities is None:
        shares = np.bincount(codes, minlength=len(names)) / len(codes)
        return shares[codes], {"kind": "shares of the arms", "probabilities": dict(zip(names, shares.tolist(), strict=True))}
    if isinstance(file.propensities, str):
        found = columns[""]
        kind: dict[str, Any] = {"kind": "column", "probabilities": file.propensities}
    else:
        found = _by_arm(file.propensities, codes, names, columns)
        kind = {"kind": "known", "probabilities": dict(file.propensities)}
    if not np.all((found > 0.0) & (found <= 1.0)):
        row = int(np.argmin((found > 0.0) & (found <= 1.0)))
        raise ExperimentError(
            f"propensities: {found[row]:g} of arm {names[codes[row]]!r}, which was assigned (row {row} of those used), is no probability; "
            "an arm without overlap cannot be judged: give numbers in (0, 1], or leave its rows out"
        )
    return found, kind


def _by_arm(given: Mapping[str, float | str], codes: np.ndarray, names: tuple[str, ...], columns: Mapping[str, np.ndarray]) -> np.ndarray:
    unsaid = [arm for arm in names if arm not in given]
    if len(unsaid) > 1:
        raise ExperimentError(
            f"propensities: arm {unsaid[0]!r} has none; give a number or a column for each of {list(names)}; one arm at most may be "
            "left out, and gets the rest"
        )
    table = np.column_stack([_of_arm(given, arm, columns, len(codes)) for arm in names])
    if unsaid:
        table[:, names.index(unsaid[0])] = 1.0 - table.sum(axis=1)
    total = table.sum(axis=1)
    off = float(np.abs(total - 1.0).max())
    if off > _OFF:
        raise ExperimentError(f"propensities: those of a row sum to one only within {off:.3g}; give the probability of every arm")
    return table[np.arange(len(codes)), codes] / total


def _of_arm(given: Mapping[str, float | str], arm: str, columns: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    return columns[arm] if arm in columns else np.full(rows, float(given.get(arm, 0.0)))


def _costs(file: PersonaliseFile, names: tuple[str, ...]) -> np.ndarray:
    return np.array([file.costs.get(arm, 0.0) for arm in names])


def _check(
    codes: np.ndarray,
    names: tuple[str, ...],
    outcomes: Mapping[str, np.ndarray],
    covariates: Mapping[str, Column],
    halves: tuple[np.ndarray, np.ndarray],
) -> None:
    for name, values in outcomes.items():
        if np.ptp(values) == 0.0:
            raise ExperimentError(f"outcomes: {name!r} is constant ({values[0]:g} in every row that is used): nothing to learn")
    counts = np.min([np.bincount(codes[half], minlength=len(names)) for half in halves], axis=0)
    if counts.min() < _FEWEST:
        arm = int(np.argmin(counts))
        raise ExperimentError(
            f"treatment: arm {names[arm]!r} has {counts[arm]} rows in one half, fewer than {_FEWEST}; leave its rows out of the data"
        )
    for each in covariates.values():
        known = ~each.missing
        check_overlap(codes[known], names, [each._replace(values=each.values[known])])


def _filled(covariates: Mapping[str, Column]) -> dict[str, int]:
    return {f"{name} (kept)": int(each.missing.sum()) for name, each in covariates.items() if each.missing.any()}


def _doubts(codes: np.ndarray, names: tuple[str, ...], propensity: np.ndarray) -> list[str]:
    found = []
    for arm, name in enumerate(names):
        weight = (codes == arm) / propensity
        error = float(weight.std() / np.sqrt(len(weight)))
        if error > 0.0 and abs(float(weight.mean()) - 1.0) > _DOUBTED * error:
            found.append(
                f"the probabilities do not fit arm {name!r}: the mean of 1[assigned] / probability is {weight.mean():.4f}, not 1 "
                f"(standard error {error:.4f}); values below are as wrong as they are"
            )
    return found
