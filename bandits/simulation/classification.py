"""A classification table as a bandit: the context is a row's features, the actions its possible classes, one pass in a shuffled order.

The reward is 1 for the right class and 0 otherwise, or what a table of prizes says of (class, action): mushroom's "eat / don't" is two
actions over the classes edible and poisonous (Riquelme, Tucker, Snoek, "Deep Bayesian bandits showdown", ICLR 2018, appendix).
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pydantic

from bandits.errors import SimulationError
from bandits.policy import Dims
from bandits.simulation.encoding import classes_of, encode_contexts
from bandits.simulation.environment import Environment, Offer, Outcome, World, offer_all, single
from protos import config

__all__ = ["ClassificationSettings", "LabelledRows", "Prizes", "classification", "classification_of", "labelled_rows", "right_class"]

# Probabilities of a prize are written by hand.
_SUM_TOLERANCE = 1e-6

Chance = tuple[float, Annotated[float, pydantic.Field(gt=0.0, le=1.0)]]
Prize = float | tuple[Chance, ...]


class Rewards(config.StrictModel):
    """A reward for each class and action."""

    #: Names of the actions, in the order of the rows of `table`.
    actions: tuple[str, ...]
    #: Class -> one prize an action: a number, or a list of [number, probability] of which one is drawn.
    table: dict[str, tuple[Prize, ...]]


class ClassificationSettings(config.StrictModel):
    """A classification table, one pass in a shuffled order."""

    #: CSV or Parquet file with one row a decision.
    data: str
    #: Column that holds the class.
    label: str
    #: false = the first line is data, and the columns are named "0", "1", ...
    header: bool = True
    #: Rewards by class and action; without it, 1 for the right class.
    rewards: Rewards | None = None


class LabelledRows(NamedTuple):
    """`context` f32[n, d]; `label` i32[n], index into `classes`."""

    context: np.ndarray
    label: np.ndarray
    classes: tuple[str, ...]


class Prizes(NamedTuple):
    """What action a earns on class c: one of `value` f64[C, A, M], drawn with `probability` f64[C, A, M]."""

    value: np.ndarray
    probability: np.ndarray


def labelled_rows(table: pa.Table, *, label: str) -> LabelledRows:
    """Contexts and classes of a table. Raises SimulationError as `encoding` does."""
    classes, codes = classes_of(table, label, role="label")
    context = encode_contexts(table, leave_out=frozenset({label}))
    return LabelledRows(context=context.astype(np.float32), label=codes, classes=classes)


def right_class(classes: int) -> Prizes:
    """1 for the right class, 0 for any other."""
    return Prizes(value=np.eye(classes)[:, :, None], probability=np.ones((classes, classes, 1)))


def classification(rows: LabelledRows, prizes: Prizes) -> Environment:
    """One pass over the rows. Seed s meets them in the order `numpy.random.default_rng(s).permutation(n)`."""
    n, d = rows.context.shape
    dims = Dims(actions=prizes.value.shape[1], context=d, features=0)
    contexts, labels = jnp.asarray(rows.context), jnp.asarray(rows.label)
    values = jnp.asarray(prizes.value, jnp.float64)
    chances = jnp.cumsum(jnp.asarray(prizes.probability, jnp.float64), axis=-1)
    expected = jnp.asarray(np.sum(prizes.value * prizes.probability, axis=-1), jnp.float64)

    def begin(seed: int) -> World:
        return np.random.default_rng(seed).permutation(n).astype(np.int32)

    def offer(world: World, t: jax.Array, key: jax.Array) -> Offer:
        row = world[t]
        return offer_all(dims, contexts[row], truth=labels[row])

    def respond(world: World, t: jax.Array, offer: Offer, slate: jax.Array, key: jax.Array) -> Outcome:
        action = offer.candidates.action[slate[0]]
        # The last chance takes what rounding leaves.
        below = jax.random.uniform(key, (), jnp.float64) >= chances[offer.truth, action, :-1]
        reward = values[offer.truth, action, jnp.sum(below)]
        return single(reward, value=expected[offer.truth, action], best=jnp.max(expected[offer.truth]))

    return Environment(dims=dims, rounds=n, begin=begin, offer=offer, respond=respond)


def classification_of(settings: ClassificationSettings, table: pa.Table) -> Environment:
    """The environment of an experiment's file. Raises SimulationError for a table that does not fit it."""
    rows = labelled_rows(table, label=settings.label)
    return classification(rows, right_class(len(rows.classes)) if settings.rewards is None else _prizes(settings.rewards, rows.classes))


def _prizes(rewards: Rewards, classes: tuple[str, ...]) -> Prizes:
    by_class = [_prizes_of(rewards.table, name, actions=len(rewards.actions)) for name in classes]
    for name in rewards.table:
        if name not in classes:
            raise SimulationError(f"rewards.table: the label has no class {name!r}; {config.nearest(name, classes)}")
    most = max(len(chances) for row in by_class for chances in row)
    padded = np.zeros((len(classes), len(rewards.actions), most, 2))
    for c, row in enumerate(by_class):
        for a, chances in enumerate(row):
            padded[c, a, : len(chances)] = chances
            padded[c, a, len(chances) :, 0] = chances[-1][0]
    return Prizes(value=padded[..., 0], probability=padded[..., 1])


def _prizes_of(table: Mapping[str, tuple[Any, ...]], name: str, *, actions: int) -> list[tuple[tuple[float, float], ...]]:
    if name not in table:
        raise SimulationError(f"rewards.table: the label's class {name!r} is missing; {config.nearest(name, table)}")
    if len(table[name]) != actions:
        raise SimulationError(f"rewards.table.{name}: {len(table[name])} prizes for {actions} actions; give one an action")
    row = [prize if isinstance(prize, tuple) else ((prize, 1.0),) for prize in table[name]]
    for chances in row:
        total = sum(probability for _, probability in chances)
        if abs(total - 1.0) > _SUM_TOLERANCE:
            raise SimulationError(f"rewards.table.{name}: probabilities sum to {total:g}; they must sum to 1")
    return row
