"""The file that `bandits effects` reads."""

from typing import Literal

import pydantic

from bandits.errors import ExperimentError
from protos import config

__all__ = ["CateSection", "EffectsFile", "ErrorsName", "WeightsKind", "WeightsSection", "listed"]

WeightsKind = Literal["frequency", "analytic", "probability"]
ErrorsName = Literal["homoskedastic", "hc0", "hc1", "hc2", "hc3", "cluster"]
Names = tuple[str, ...]


class WeightsSection(config.StrictModel):
    """A column of weights, and what they mean."""

    #: Column of numbers >= 0; a row of weight 0 is left out.
    column: str
    #: `frequency`: a row stands for so many rows. `analytic`: its variance is inversely proportional. `probability`: it was sampled with
    #: a probability inversely proportional, so only robust errors hold.
    kind: WeightsKind


class CateSection(config.StrictModel):
    """Effects as lines or splines of covariates."""

    #: Covariates, or terms, by which effects differ: numbers and words.
    columns: Names
    #: Bends of each number at so many quantiles, 0..10; 0 = straight lines.
    knots: int = pydantic.Field(default=0, ge=0, le=10)
    #: Known probabilities of assignment, as in `bandits personalise`; left out: the shares of the arms.
    propensities: dict[str, float | str] | str | None = None

    @pydantic.field_validator("columns", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: object) -> object:
        return listed(given)


def listed(given: object) -> object:
    """A single name as a list of one."""
    return [given] if isinstance(given, str) else given


class EffectsFile(config.StrictModel):
    """An experiment, and what is to be estimated of it."""

    #: CSV (also .gz or .bz2) or Parquet, relative to this file.
    data: str
    #: Column of the arm that a unit was assigned to.
    treatment: str
    #: The arm that the others are compared with; the smallest number, or the first word of the alphabet, where none is named.
    control: str | float | bool | None = None
    #: Columns of numbers that the treatment may change.
    outcomes: Names
    #: Columns measured before the treatment: numbers, words (factors), or terms such as `log(x)`, `x^2`, `C(x)`, `a:b`.
    covariates: Names = ()
    #: Covariates whose product with each arm is estimated too; they are centred, so that effects stay those at their mean.
    modifiers: Names = ()
    #: Column of a number that says how much of the treatment a unit really received (0 or 1, as a rule): its effect is estimated too, with
    #: the arms as instruments. Its values become part of the cells.
    received: str | None = None
    #: Column of clusters; errors are then clustered.
    cluster: str | None = None
    #: Weights of rows.
    weights: WeightsSection | None = None
    #: Columns by which effects are shown: one line a level; numbers with more than 12 values by their quartiles.
    segments: Names = ()
    #: Which error is `standard_error`; by default `cluster` where there is a cluster, else `hc1`.
    errors: ErrorsName | None = None
    #: Penalty of a ridge on the covariates (never on the arms), times the rows, >= 0; 0 = least squares.
    ridge: float = pydantic.Field(default=0.0, ge=0.0)
    #: Numbers among the covariates become the means of so many quantile bins, 2..1000, for fewer cells; what that loses is printed.
    bins: int | None = pydantic.Field(default=None, ge=2, le=1_000)
    #: Beside each effect its error and interval by so many samples drawn anew, of clusters where there are clusters, 100..100,000.
    bootstrap: int | None = pydantic.Field(default=None, ge=100, le=100_000)
    #: Penalties of ridges on the covariates, as `ridge`: the effects at each of them.
    ridge_path: tuple[float, ...] = ()
    #: Effects by covariates, with errors that hold for each unit.
    cate: CateSection | None = None
    #: Seed of what is drawn.
    seed: int = pydantic.Field(default=0, ge=0)
    #: Level of the intervals, in (0, 1).
    level: float = pydantic.Field(default=0.95, gt=0.0, lt=1.0)

    @pydantic.field_validator("ridge_path")
    @classmethod
    def _penalties(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        if any(each < 0.0 for each in given):
            raise ValueError(f"a penalty is >= 0, not {min(given):g}")
        return given

    @pydantic.field_validator("outcomes", "covariates", "modifiers", "segments", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: object) -> object:
        return listed(given)

    @property
    def error_kind(self) -> ErrorsName:
        """The kind of error that is reported first. Raises ExperimentError where weights or a missing cluster rule it out."""
        kind = self.errors or ("cluster" if self.cluster else "hc1")
        if kind == "cluster" and self.cluster is None:
            raise ExperimentError("errors: `cluster` asks for a column of clusters; name it under `cluster`")
        if kind in ("hc2", "hc3") and (self.received is not None or (self.weights is not None and self.weights.kind != "frequency")):
            raise ExperimentError(f"errors: {kind!r} is for rows of equal weight and effects of assignment; take hc1 or cluster")
        if kind not in self.error_kinds:
            raise ExperimentError(f"errors: {kind!r} does not hold with weights of probability; take hc1 or cluster")
        return kind

    @property
    def error_kinds(self) -> tuple[ErrorsName, ...]:
        """All kinds of error that hold here."""
        plain: tuple[ErrorsName, ...] = ("homoskedastic",)
        sampled = self.weights is not None and self.weights.kind == "probability"
        asked: tuple[ErrorsName, ...] = (self.errors,) if self.errors in ("hc2", "hc3") else ()
        return (*(() if sampled else plain), "hc0", "hc1", *asked, *(("cluster",) if self.cluster else ()))
