"""Estimates from a stream of batches, by every estimator that the rows allow. Pure; memory grows with units, not with rows."""

from collections.abc import Iterable, Sequence

from ope.estimate import Estimate
from ope.estimators import CATALOG, FAMILIES, ON_POLICY, SLATE_ESTIMATORS, Estimator, estimator
from ope.panel import Panel
from ope.rows import Batch

__all__ = ["applicable", "evaluate", "on_policy_mean"]


def applicable(batch: Batch) -> list[str]:
    """Estimators that can be made of such rows: those whose arrays are there, and for slates those that take slates.

    Families, whose number is the reader's choice, are left out.
    """
    single = tuple(name for name in CATALOG if name not in SLATE_ESTIMATORS and name not in FAMILIES)
    names = SLATE_ESTIMATORS if batch.reward.shape[1] > 1 else single
    return [name for name in names if all(getattr(batch, array) is not None for array in CATALOG[name].needs)]


def evaluate(batches: Iterable[Batch], *, names: Sequence[str] = (), level: float = 0.05) -> dict[str, Estimate]:
    """Estimates by name over all batches; without `names`, all that are `applicable` to the first batch.

    Raises RowsError for an unknown name, a missing array, a NaN, or no batch at all.
    """
    return _estimates(batches, chosen=[estimator(name) for name in names], level=level)


def on_policy_mean(batches: Iterable[Batch], *, level: float = 0.05) -> Estimate:
    """Mean reward of the decisions as logged: the value of the policy that logged them. Raises RowsError as `evaluate` does."""
    return _estimates(batches, chosen=[ON_POLICY], level=level)[ON_POLICY.name]


def _estimates(batches: Iterable[Batch], *, chosen: list[Estimator], level: float) -> dict[str, Estimate]:
    panel: Panel | None = None
    for batch in batches:
        chosen = chosen or [estimator(name) for name in applicable(batch)]
        panel = panel or Panel(chosen)
        panel.add(batch)
    moments = (panel or Panel(chosen)).moments()
    return {entry.name: entry.finish(total, level) for entry, total in zip(chosen, moments, strict=True)}
