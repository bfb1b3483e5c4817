"""A replay window: the newest rows, kept in the state of policies that learn by passing over them again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bandits.keys import threefry2x32
from bandits.policy import Batch, Dims

__all__ = ["Standard", "Window", "appended", "as_batch", "drawn_rows", "empty_window", "filled", "standard_of"]

# What a feature must deviate, as a share of its size, to be no constant; the square is that of the linear regression.
_CONSTANT = 3e-5
# Second word of the counter of a minibatch's draws; the slots of a slate use 0.
_MINIBATCH = 1


class Window(NamedTuple):
    """A ring of W rows, as in a `Batch`: `context` f64[W, d], `action` i32[W], `reward`, `weight` (0 = empty place), `time_s` and
    `propensity` f64[W], `slot` i32[W]; `rows` i64[]: how many have ever come."""

    context: jax.Array
    action: jax.Array
    reward: jax.Array
    weight: jax.Array
    time_s: jax.Array
    slot: jax.Array
    propensity: jax.Array
    rows: jax.Array


class Standard(NamedTuple):
    """`centre` and `inverse_spread` standardise: (x - centre) inverse_spread; the inverse is 0 for what does not vary."""

    centre: jax.Array
    inverse_spread: jax.Array

    @property
    def spread(self) -> jax.Array:
        """Standard deviations; 0 for what does not vary."""
        varies = self.inverse_spread > 0.0
        return jnp.where(varies, 1.0 / jnp.where(varies, self.inverse_spread, 1.0), 0.0)

    def of(self, x: jax.Array) -> jax.Array:
        """x, [..., d], in standard deviations from the mean."""
        ones = (1,) * (x.ndim - self.centre.ndim)
        return (x - self.centre.reshape(*ones, *self.centre.shape)) * self.inverse_spread.reshape(*ones, *self.centre.shape)


def empty_window(dims: Dims, *, size: int) -> Window:
    """Room for `size` rows."""
    nothing = jnp.zeros(size, jnp.float64)
    return Window(
        context=jnp.zeros((size, dims.context), jnp.float64),
        action=jnp.zeros(size, jnp.int32),
        reward=nothing,
        weight=nothing,
        time_s=nothing,
        slot=jnp.zeros(size, jnp.int32),
        propensity=jnp.ones(size, jnp.float64),
        rows=jnp.zeros((), jnp.int64),
    )


def appended(window: Window, batch: Batch) -> Window:
    """The window after the rows of a batch whose weight is above 0; the oldest make room. Other rows change nothing."""
    size, kept = window.weight.shape[0], batch.weight > 0.0
    order = jnp.cumsum(kept) - 1
    new = jnp.sum(kept)
    # Of more rows than there is room for, the last stay; those without a place fall outside the ring and are dropped.
    place = jnp.where(kept & (order >= new - size), (window.rows + order) % size, size)
    names = Window._fields[:-1]
    columns = {name: getattr(window, name).at[place].set(getattr(batch, name), mode="drop") for name in names}
    return Window(**columns, rows=window.rows + new)


def as_batch(window: Window, *, context: jax.Array) -> Batch:
    """The rows of the window as a batch, with another context f64[W, .] for each; empty places have weight 0."""
    nothing = jnp.zeros((window.weight.shape[0], 0), jnp.float64)
    columns = window._asdict() | {"context": context, "features": nothing, "outcomes": nothing}
    return Batch(**{name: columns[name] for name in Batch._fields})


def filled(window: Window) -> jax.Array:
    """Rows that the window holds, i64[]."""
    return jnp.minimum(window.rows, window.weight.shape[0])


def drawn_rows(window: Window, step: Any, *, size: int) -> jax.Array:
    """Places of a minibatch, i64[size]: even draws, with replacement, that follow from the rows seen and the step alone."""
    counter = jnp.arange(size, dtype=jnp.uint32)
    key = (window.rows.astype(jnp.uint32), jnp.asarray(step).astype(jnp.uint32))
    bits, _ = threefry2x32(key, (counter, jnp.full_like(counter, _MINIBATCH)))
    return (bits.astype(jnp.int64) * jnp.maximum(filled(window), 1)) >> 32


def standard_of(x: jax.Array, weight: jax.Array) -> Standard:
    """Mean and spread over rows of x [n] or [n, d] with weights [n] >= 0; an empty sum gives mean 0."""
    total = jnp.maximum(jnp.sum(weight), jnp.finfo(jnp.float64).tiny)
    centre = weight @ x / total
    off = x - centre.reshape(1, *centre.shape)
    spread = jnp.sqrt(weight @ off**2 / total)
    varies = spread > _CONSTANT * jnp.sqrt(weight @ x**2 / total)
    return Standard(centre=centre, inverse_spread=jnp.where(varies, 1.0 / jnp.where(varies, spread, 1.0), 0.0))
