"""The three forms of the linear model as the part of a policy that all of them share: what is learned, prepared and scored."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bandits.policies.linear_design import Basis, Interactions, design_of
from bandits.policies.linear_posterior import LinearParams, LinearState, Moments, initial, learned, moments, posterior
from bandits.policy import Batch, Candidates, Dims

__all__ = ["LinearModel", "disjoint", "hybrid", "shared"]


class LinearModel(NamedTuple):
    """`init`, `update` and `prepare` as in `bandits.policy`; `moments(params, context, candidates)` of a request's candidates.

    `own_blocks` = each action has parameters of its own.
    """

    init: Callable[[], LinearState]
    update: Callable[[LinearState, Batch], LinearState]
    prepare: Callable[[LinearState], LinearParams]
    moments: Callable[[LinearParams, jax.Array, Candidates], Moments]
    own_blocks: bool


def disjoint(dims: Dims, *, prior_scale: float, basis: Basis) -> LinearModel:
    """Parameters per action on the context: y = theta_a . x(c). Action features are not used."""
    return _model(dims, prior_scale=prior_scale, basis=basis, own_blocks=True, features=False, interactions="none")


def shared(dims: Dims, *, prior_scale: float, basis: Basis, interactions: Interactions) -> LinearModel:
    """One parameter vector on context, action features and their products: y = beta . u(c, f). An action is its features."""
    return _model(dims, prior_scale=prior_scale, basis=basis, own_blocks=False, features=True, interactions=interactions)


def hybrid(dims: Dims, *, prior_scale: float, basis: Basis, interactions: Interactions) -> LinearModel:
    """Both: y = theta_a . x(c) + beta . u(c, f). An action without rows is known by its features."""
    return _model(dims, prior_scale=prior_scale, basis=basis, own_blocks=True, features=True, interactions=interactions)


def _model(dims: Dims, *, prior_scale: float, basis: Basis, own_blocks: bool, features: bool, interactions: Interactions) -> LinearModel:
    design = design_of(dims, basis=basis, features=features, interactions=interactions)

    def block(action: jax.Array) -> jax.Array:
        return action if own_blocks else jnp.zeros_like(action)

    def init() -> LinearState:
        return initial(design, blocks=dims.actions if own_blocks else 1)

    def update(state: LinearState, batch: Batch) -> LinearState:
        return learned(design, state, batch, block(batch.action))

    def prepare(state: LinearState) -> LinearParams:
        return posterior(design, state, prior_scale=prior_scale, cold=own_blocks)

    def of_request(params: LinearParams, context: jax.Array, candidates: Candidates) -> Moments:
        return moments(design, params, context, candidates, block(candidates.action))

    return LinearModel(init=init, update=update, prepare=prepare, moments=of_request, own_blocks=own_blocks)
