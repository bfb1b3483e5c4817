"""What a linear policy regresses on: columns of context and action features, their products, and how raw sums are standardised.

    v = (1, c, products of c, f, products with f)        raw columns of a row: context c [d], action features f [m]
    z_i = (b_i - mean_i) / deviation_i                   of a base column b of (c, f)
    z_ij = (z_i z_j - mean_ij) / deviation_ij            of a product; i = j is a square

Every standardised column is a linear combination of raw columns, z = T v. So sums of v v^T over rows are all that a state has to keep:
their moments give T, and T G T^T is the Gram matrix of rows that were standardised first.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.errors import PolicyError
from bandits.policy import Dims

__all__ = ["Basis", "Design", "Interactions", "Standard", "change", "design_of", "standard_of", "standardised"]

#: `linear`: the columns themselves; `squares`: each with its square beside it.
Basis = Literal["linear", "squares"]
#: Which products of context column i and action feature j: all, none, or the listed pairs (i, j) of places in the encoded vectors.
Interactions = Literal["all", "none"] | Sequence[tuple[int, int]]

# A column whose variance is below this share of its mean square (a deviation of 3e-5 of its size) is constant, and carries nothing. For
# a square that is a column 200 deviations away from zero, whose fourth moments have lost the digits.
_CONSTANT = 1e-9
# Shared columns beyond this make a matrix that is factorised too slowly to prepare a snapshot.
_MOST_SHARED = 1024


class Design(NamedTuple):
    """Columns: `own` ones (1, context and its products) and `common` ones (features and products with them), in this order.

    `pairs` are the products, own ones first, as places in the base columns (context, features).
    """

    context: int
    features: int
    own_pairs: tuple[tuple[int, int], ...]
    common_pairs: tuple[tuple[int, int], ...]

    @property
    def own(self) -> int:
        """D: own columns with the intercept."""
        return 1 + self.context + len(self.own_pairs)

    @property
    def common(self) -> int:
        """p: common columns."""
        return self.features + len(self.common_pairs)

    @property
    def pairs(self) -> np.ndarray:
        """Both places of each product, i[2, t]."""
        return np.array([*self.own_pairs, *self.common_pairs], np.int32).reshape(-1, 2).T

    @property
    def base_columns(self) -> np.ndarray:
        """Where the base columns stand in v."""
        return np.r_[1 : 1 + self.context, self.own : self.own + self.features]

    @property
    def pair_columns(self) -> np.ndarray:
        """Where the products stand in v."""
        return np.r_[1 + self.context : self.own, self.own + self.features : self.own + self.common]

    def raw(self, context: jax.Array, features: jax.Array) -> jax.Array:
        """v of rows, f64[n, D + p]; `context` f64[n, d], `features` f64[n, m]."""
        base = jnp.concatenate([context, features], axis=1)
        products = base[:, self.pairs[0]] * base[:, self.pairs[1]]
        cut = len(self.own_pairs)
        parts = [jnp.ones_like(base, shape=(base.shape[0], 1)), context, products[:, :cut], features, products[:, cut:]]
        return jnp.concatenate(parts, axis=1)


class Standard(NamedTuple):
    """`centre` and `inverse_spread` of the base columns [d + m], and of the products of standardised columns [t]; spread 0 = dropped."""

    centre: jax.Array
    inverse_spread: jax.Array
    pair_centre: jax.Array
    pair_inverse_spread: jax.Array


def design_of(dims: Dims, *, basis: Basis, features: bool, interactions: Interactions = "none") -> Design:
    """The design of a policy. `features` = do action features enter?

    Raises PolicyError for a pair outside the encoded vectors, or for more than 1,024 common columns.
    """
    f = dims.features if features else 0
    squares = basis == "squares"
    pairs = _declared(interactions, dims.context, f)
    crossed = [(i, dims.context + j) for i, j in pairs]
    own = [(i, i) for i in range(dims.context)] if squares else []
    common = [(dims.context + j, dims.context + j) for j in range(f)] if squares else []
    design = Design(context=dims.context, features=f, own_pairs=tuple(own), common_pairs=(*common, *crossed))
    if design.common > _MOST_SHARED:
        raise PolicyError(
            f"policy.settings.interactions: {len(pairs)} of them make {design.common} shared columns, more than {_MOST_SHARED}; "
            "list the pairs that matter"
        )
    return design


def standard_of(design: Design, pooled: jax.Array) -> Standard:
    """Moments from the sums of v v^T over all rows, [D + p, D + p]."""
    rows = jnp.maximum(pooled[0, 0], 1.0)
    columns = design.base_columns
    centre, second = pooled[0, columns] / rows, jnp.diagonal(pooled)[columns] / rows
    inverse = _inverse_deviation(second - centre**2, second)
    products = _products(design, centre, inverse)
    pair_centre = products @ pooled[:, 0] / rows
    variance = jnp.sum((products @ pooled) * products, axis=1) / rows - pair_centre**2
    # Measured against the raw fourth moment, whose rounding is what limits the variance.
    size = (inverse[design.pairs[0]] * inverse[design.pairs[1]]) ** 2 * jnp.diagonal(pooled)[design.pair_columns] / rows
    return Standard(centre, inverse, pair_centre, _inverse_deviation(variance, jnp.maximum(size, pair_centre**2)))


def change(design: Design, standard: Standard) -> jax.Array:
    """T of z = T v, [D + p, D + p]."""
    size, columns = design.own + design.common, design.base_columns
    matrix = jnp.zeros((size, size), jnp.float64).at[0, 0].set(1.0)
    matrix = matrix.at[columns, columns].set(standard.inverse_spread).at[columns, 0].set(-standard.centre * standard.inverse_spread)
    products = _products(design, standard.centre, standard.inverse_spread).at[:, 0].add(-standard.pair_centre)
    return matrix.at[design.pair_columns].set(products * standard.pair_inverse_spread[:, None])


def standardised(design: Design, standard: Standard, context: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Own columns f64[D] and common columns f64[K, p] of one request: `context` f64[d], `features` f64[K, m]."""
    d, cut = design.context, len(design.own_pairs)
    z = (context - standard.centre[:d]) * standard.inverse_spread[:d]
    first, second = design.pairs[:, :cut]
    squares = (z[first] * z[second] - standard.pair_centre[:cut]) * standard.pair_inverse_spread[:cut]
    own = jnp.concatenate([jnp.ones(1, jnp.float64), z, squares])
    used = features[:, : design.features]
    of_features = (used - standard.centre[None, d:]) * standard.inverse_spread[None, d:]
    every = jnp.concatenate([jnp.broadcast_to(z[None, :], (used.shape[0], d)), of_features], axis=1)
    first, second = design.pairs[:, cut:]
    products = (every[:, first] * every[:, second] - standard.pair_centre[None, cut:]) * standard.pair_inverse_spread[None, cut:]
    return own, jnp.concatenate([of_features, products], axis=1)


def _products(design: Design, centre: jax.Array, inverse: jax.Array) -> jax.Array:
    """Rows that make the products z_i z_j of v: (b_i - mean_i)(b_j - mean_j) / deviations, [t, D + p]."""
    first, second = design.pairs
    row, columns = np.arange(len(first)), design.base_columns
    matrix = jnp.zeros((len(first), design.own + design.common), jnp.float64).at[row, design.pair_columns].set(1.0)
    matrix = matrix.at[row, columns[first]].add(-centre[second]).at[row, columns[second]].add(-centre[first])
    matrix = matrix.at[:, 0].add(centre[first] * centre[second])
    return matrix * (inverse[first] * inverse[second])[:, None]


def _inverse_deviation(variance: jax.Array, size: jax.Array) -> jax.Array:
    varies = variance > _CONSTANT * size
    return jnp.where(varies, 1.0 / jnp.sqrt(jnp.where(varies, variance, 1.0)), 0.0)


def _declared(interactions: Interactions, context: int, features: int) -> list[tuple[int, int]]:
    if interactions == "none":
        return []
    if interactions == "all":
        return [(i, j) for i in range(context) for j in range(features)]
    for i, j in interactions:
        if not (0 <= i < context and 0 <= j < features):
            raise PolicyError(
                f"policy.settings.interactions: {[i, j]!r} is refused; give a place in the context below {context} and one in the "
                f"action features below {features}"
            )
    return [(i, j) for i, j in interactions]
