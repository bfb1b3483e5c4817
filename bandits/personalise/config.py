"""The file that `bandits personalise` reads."""

import pydantic

from bandits.effects.config import Names, listed
from protos import config

__all__ = ["Guardrail", "PersonaliseFile"]


class Guardrail(config.StrictModel):
    """What an outcome may not fall below: a number, or an arm's mean less a margin."""

    #: The mean of the outcome, in its own unit.
    at_least: float | None = None
    #: The arm whose mean it may not fall below.
    arm: str | None = None
    #: By how much it may, >= 0.
    margin: float = pydantic.Field(default=0.0, ge=0.0)

    @pydantic.model_validator(mode="after")
    def _one_bound(self) -> "Guardrail":
        if (self.at_least is None) == (self.arm is None):
            raise ValueError("give `at_least` or `arm`, one of the two")
        return self


class PersonaliseFile(config.StrictModel):
    """An experiment, and what a policy learned from it should be good for."""

    #: CSV (also .gz or .bz2) or Parquet, relative to this file.
    data: str
    #: Column of the arm that a unit was assigned to.
    treatment: str
    #: Columns of numbers, each with its weight in what is to be maximised; a name or a list of names has weight 1.
    outcomes: dict[str, float]
    #: What an arm costs a unit, in the unit of the weighted outcomes; 0 where none is named.
    costs: dict[str, float] = pydantic.Field(default_factory=dict)
    #: Columns that are known when a unit is assigned: numbers, words, or terms such as `log(x)`.
    covariates: Names
    #: Known probabilities of assignment: by arm a number or a column (one arm may be left out, and gets the rest), or one column with the
    #: probability of the arm that the unit got.
    #: Left out: the shares of the arms, which is right where everybody was assigned with the same probabilities.
    propensities: dict[str, float | str] | str | None = None
    #: Seed of the split: `numpy.random.default_rng(seed).permutation(n)`, whose first half trains and whose second half judges.
    seed: int = pydantic.Field(default=0, ge=0)
    #: Column of clusters; the errors of values and gains are then clustered.
    cluster: str | None = None
    #: Bounds by outcome; an outcome that is only guarded has weight 0 under `outcomes`. A bound holds if its lower 95 % bound does.
    guardrails: dict[str, Guardrail] = pydantic.Field(default_factory=dict)
    #: Most that a unit may cost on average, in the unit of the costs.
    budget: float | None = None
    #: Other weights of the outcomes, for a table of what they would give.
    pareto: tuple[dict[str, float], ...] = ()
    #: true = also one tree for all outcomes, and a guidance tree that chooses between policies.
    distil: bool = False
    #: A regression of your own as `module:factory`, called without arguments, as scikit-learn's: it is stacked with the others.
    regression: str | None = None
    #: So many models of random halves of the rows are served with a black box, which then explores by drawing one, 2..256; 0 = none.
    draws: int = pydantic.Field(default=0, ge=0, le=256)
    #: Depth of the deepest tree, 1..4.
    depth: int = pydantic.Field(default=3, ge=1, le=4)
    #: Fewest rows of a leaf; by default 1 % of the rows that train, at least 20.
    least_leaf: int | None = pydantic.Field(default=None, ge=1)

    @pydantic.field_validator("outcomes", mode="before")
    @classmethod
    def _names_weigh_one(cls, given: object) -> object:
        given = listed(given)
        return dict.fromkeys(given, 1.0) if isinstance(given, list | tuple) else given

    @pydantic.field_validator("outcomes")
    @classmethod
    def _some_outcome(cls, given: dict[str, float]) -> dict[str, float]:
        if not any(given.values()):
            raise ValueError("no outcome has a weight; name one")
        return given

    @pydantic.field_validator("covariates", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: object) -> object:
        return listed(given)
