"""The rows of a table that an analysis can use, and an account of those that it cannot. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from bandits.effects.columns import as_factor, bases, column
from bandits.effects.plain import Column
from bandits.errors import ExperimentError
from protos import config

__all__ = ["Sample", "arm_named", "arms_of", "check_before", "check_overlap", "complete", "control_of"]


class Sample(NamedTuple):
    """`kept` bool[n]: rows with a value in every column; `missing`: rows without one, by column (a row may count in several)."""

    kept: np.ndarray
    missing: Mapping[str, int]

    @property
    def account(self) -> dict[str, object]:
        """Rows as they are printed."""
        used = int(self.kept.sum())
        return {"read": len(self.kept), "used": used, "dropped": len(self.kept) - used, "missing": dict(self.missing)}


def complete(columns: Sequence[Column], *, rows: int) -> Sample:
    """Rows that have a value in every column. Raises ExperimentError where there is none."""
    kept = np.ones(rows, bool)
    missing = {}
    for each in columns:
        kept &= ~each.missing
        if each.missing.any():
            missing[each.name] = int(each.missing.sum())
    if not kept.any():
        raise ExperimentError(f"data: no row has a value in all of {[each.name for each in columns]}; missing by column: {missing}")
    return Sample(kept, missing)


def arms_of(table: pa.Table, treatment: str, control: object) -> tuple[Column, int]:
    """The treatment as a factor, and the place of the control.

    Raises ExperimentError for one arm only, more than 100, or a control that is none of them.
    """
    found = as_factor(column(table, treatment, role="treatment"), role="treatment")
    names = found.levels or ()
    if len(names) < 2:
        raise ExperimentError(f"treatment: column {treatment!r} has one arm only, {list(names)}; an effect needs two")
    if len(names) > 100:
        raise ExperimentError(f"treatment: column {treatment!r} has {len(names)} different values; name a column of at most 100 arms")
    return found, control_of(names, control)


def control_of(names: Sequence[str], control: object) -> int:
    """The place of the control among the arms; 0 where none is named. Raises ExperimentError for a name that is no arm."""
    if control is None:
        return 0
    found = arm_named(control, names)
    if found is None:
        raise ExperimentError(f"control: {control!r} is no arm; {config.nearest(str(control), names)}")
    return list(names).index(found)


def arm_named(given: object, names: Sequence[str]) -> str | None:
    """The arm that a config means by a word, number or truth value: `1`, `1.0`, `true` and "1" are one arm. None where there is none."""
    word = str(given)
    if word in names:
        return word
    word = {"true": "1", "false": "0"}.get(word.lower(), word)
    try:
        word = f"{float(word):g}"
    except ValueError:
        return None
    return word if word in names else None


def check_before(table: pa.Table, covariates: Mapping[str, Sequence[str]], *, treatment: str, outcomes: Iterable[str]) -> None:
    """No outcome is the treatment, and no covariate is made of either; `covariates` are terms by role. Raises ExperimentError."""
    after = {treatment}
    for outcome in outcomes:
        if treatment in bases(outcome, table.column_names):
            raise ExperimentError(f"outcomes: {outcome!r} is the treatment itself; name what it may have changed")
        after |= bases(outcome, table.column_names)
    for role, terms in covariates.items():
        for term in terms:
            if after & bases(term, table.column_names):
                raise ExperimentError(
                    f"{role}: {term!r} is the treatment or an outcome; name what is measured before the treatment and known at the time"
                )


def check_overlap(arms: np.ndarray, names: Sequence[str], covariates: Sequence[Column]) -> None:
    """Every pair of arms shares some value, or range, of each covariate. Raises ExperimentError naming covariate and arms.

    `arms` i[C] and the covariates' values [C] are those of cells or rows.
    """
    present = np.unique(arms)
    for each in covariates:
        for at, one in enumerate(present):
            for other in present[at + 1 :]:
                if not _share(each, each.values[arms == one], each.values[arms == other]):
                    raise ExperimentError(
                        f"covariates: arms {names[one]!r} and {names[other]!r} have no overlap in {each.name!r}; no effect can "
                        "be told from it: leave one of the arms or this covariate out"
                    )


def _share(each: Column, one: np.ndarray, other: np.ndarray) -> bool:
    if each.is_factor:
        return bool(np.isin(one, other).any())
    return bool(one.max() >= other.min() and other.max() >= one.min())
