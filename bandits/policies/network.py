"""Small networks and their training: fully connected layers in flax, Adam over minibatches of a replay window."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bandits.policies.replay import Window, drawn_rows

__all__ = ["MINIBATCH_ROWS", "Network", "descended", "multilayer", "trained"]

Weights = Any
# Rows of a minibatch, and Adam's step size: usual values for networks of this size; 1e-3 is slower, 1e-2 does not settle.
MINIBATCH_ROWS = 64
_STEP_SIZE = 3e-3
# Adam's decay of the mean and of the mean square, and what keeps the quotient finite: the paper's.
_DECAY, _SQUARE_DECAY, _TINY = 0.9, 0.999, 1e-8


class Network(NamedTuple):
    """`init(key) -> weights` and `apply(weights, x)`: x f64[..., inputs] to f64[..., outputs]."""

    init: Callable[[jax.Array], Weights]
    apply: Callable[[Weights, jax.Array], jax.Array]


def multilayer(sizes: Sequence[int], *, last: str = "relu") -> Network:
    """Layers from sizes[0] inputs to sizes[-1] outputs, rectified between; `last`: "relu", "linear" or "zero" (linear, zero at init)."""
    kinds = [*["relu"] * (len(sizes) - 2), last]
    layers = [layer for size, kind in zip(sizes[1:], kinds, strict=True) for layer in _layer(size, kind)]
    module = nn.Sequential(layers)

    def init(key: jax.Array) -> Weights:
        return module.init(key, jnp.zeros(sizes[0], jnp.float64))["params"]

    def apply(weights: Weights, x: jax.Array) -> jax.Array:
        return module.apply({"params": weights}, x)

    return Network(init=init, apply=apply)


def trained(loss: Callable[[Weights, jax.Array], jax.Array], weights: Weights, window: Window, *, steps: Any) -> Weights:
    """The weights after `steps` (an integer, traced or not) steps of Adam on minibatches.

    `loss(weights, rows) -> f64[]` of the window's rows at the given places, i64[64]. The optimiser starts anew.
    """

    def gradient(weights: Weights, step: jax.Array) -> Weights:
        return jax.grad(loss)(weights, drawn_rows(window, step, size=MINIBATCH_ROWS))

    return descended(gradient, weights, steps=steps, step_size=_STEP_SIZE)


def descended(gradient: Callable[[Weights, jax.Array], Weights], weights: Weights, *, steps: Any, step_size: float) -> Weights:
    """The weights after `steps` steps of Adam (Kingma and Ba, "Adam", ICLR 2015, algorithm 1) down `gradient(weights, step)`.

    Written here because that of optax leaves promotion of dtypes to JAX, which policies may not.
    """

    def step(number: jax.Array, carry: tuple[Weights, Weights, Weights]) -> tuple[Weights, Weights, Weights]:
        weights, first, second = carry
        slope = gradient(weights, number)
        first = jax.tree.map(lambda m, g: _DECAY * m + (1.0 - _DECAY) * g, first, slope)
        second = jax.tree.map(lambda v, g: _SQUARE_DECAY * v + (1.0 - _SQUARE_DECAY) * g**2, second, slope)
        done = number.astype(jnp.float64) + 1.0
        unbiased, unbiased_square = 1.0 - _DECAY**done, 1.0 - _SQUARE_DECAY**done
        weights = jax.tree.map(
            lambda w, m, v: w - step_size * (m / unbiased) / (jnp.sqrt(v / unbiased_square) + _TINY), weights, first, second
        )
        return weights, first, second

    nothing = jax.tree.map(jnp.zeros_like, weights)
    return jax.lax.fori_loop(0, steps, step, (weights, nothing, nothing))[0]


def _layer(size: int, kind: str) -> list[Any]:
    if kind == "zero":
        return [nn.Dense(size, param_dtype=jnp.float64, kernel_init=nn.initializers.zeros)]
    dense = nn.Dense(size, param_dtype=jnp.float64)
    return [dense, nn.relu] if kind == "relu" else [dense]
