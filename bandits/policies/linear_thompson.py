"""Thompson sampling on a Bayesian linear regression (Agrawal and Goyal 2013), in three forms.

    p_k = P(k's posterior draw is the largest),   draw_k ~ mean_k + exploration scale_k N(0, 1)

The model is that of `linear_posterior`. Actions with parameters of their own are independent: their win probabilities are computed by
quadrature. Shared parameters correlate them: M joint draws of the candidates' scores (`posterior_draws`).

`exploration` below 1 narrows the draws. The model's noise is the same everywhere and holds what straight lines cannot say, so its
posterior is wider than what is at stake between two actions of one request; the floor, which every policy has, guards against the rest.
"""

import jax
import pydantic

from bandits.policies.linear_design import Basis, Interactions
from bandits.policies.linear_form import LinearModel, disjoint, hybrid, shared
from bandits.policies.linear_posterior import GaussianScores, LinearParams
from bandits.policies.posterior_draws import DRAWS, JointScores, joint_scores, win_frequencies
from bandits.policy import Candidates, Dims, Policy, added
from bandits.win_probability import NODES, win_probabilities
from protos import config

__all__ = [
    "EXPLORATION",
    "CorrelatedThompsonSettings",
    "GaussianScores",
    "LinearThompsonSettings",
    "linear_thompson",
    "linear_thompson_hybrid",
    "linear_thompson_shared",
]

#: Deviations of a draw in deviations of the posterior.
EXPLORATION = 0.3


class LinearThompsonSettings(config.StrictModel):
    """Settings of `linear_thompson`."""

    #: How much larger than by default a weight may be a priori, > 0. The default scale follows the features.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)
    #: `squares`: each feature also enters by its square, which bends the lines; `linear`: not, for a quarter of the work.
    basis: Basis = "squares"
    #: Width of the draws in deviations of the posterior, > 0.
    exploration: float = pydantic.Field(default=EXPLORATION, gt=0.0)
    #: Nodes of the quadrature, 32..256. 32 are right to 1e-6 while the arms' scales differ by up to 30, to 1e-4 while by up to 100, 40 to
    #: 1e-5; where twenty narrow arms stand beside one that is a hundred times wider, 32 to 6e-3 and 40 to 2e-3.
    nodes: int = pydantic.Field(default=NODES, ge=32, le=256)


class CorrelatedThompsonSettings(config.StrictModel):
    """Settings of `linear_thompson_shared` and `linear_thompson_hybrid`."""

    #: How much larger than by default a weight may be a priori, > 0. The default scale follows the features.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)
    #: `squares`: each feature also enters by its square; `linear`: not.
    basis: Basis = "linear"
    #: Products of a context column and an action feature: `all`, `none`, or pairs of places in the two encoded vectors, from 0.
    interactions: Interactions = "all"
    #: Width of the draws in deviations of the posterior, > 0.
    exploration: float = pydantic.Field(default=EXPLORATION, gt=0.0)
    #: Joint draws a request, 16..4096, a multiple of 4; win frequencies are multiples of one over it.
    draws: int = pydantic.Field(default=DRAWS, ge=16, le=4096, multiple_of=4)


def linear_thompson(
    dims: Dims, *, prior_scale: float = 1.0, basis: Basis = "squares", exploration: float = EXPLORATION, nodes: int = NODES
) -> Policy:
    """Disjoint: parameters per action, on the context alone. Win probabilities by quadrature with `nodes` nodes.

    `prior_scale` > 0: how much larger than by default a weight may be; `exploration` > 0: width of the draws.
    """
    model = disjoint(dims, prior_scale=prior_scale, basis=basis)

    def score(params: LinearParams, context: jax.Array, candidates: Candidates, key: jax.Array) -> GaussianScores:
        found = model.moments(params, context, candidates)
        return GaussianScores(mean=found.mean, scale=found.scale)

    def choose(scores: GaussianScores, mask: jax.Array) -> jax.Array:
        return win_probabilities(scores.mean, exploration * scores.scale, mask, nodes=nodes)

    return Policy(init=model.init, update=model.update, prepare=model.prepare, score=score, choose=choose, merge=added)


def linear_thompson_shared(
    dims: Dims,
    *,
    prior_scale: float = 1.0,
    basis: Basis = "linear",
    interactions: Interactions = "all",
    exploration: float = EXPLORATION,
    draws: int = DRAWS,
) -> Policy:
    """One parameter vector on context, action features and their products; an action is its features.

    Settings as in `CorrelatedThompsonSettings`. Without action features candidates tie. Raises PolicyError for pairs that are not there.
    """
    return _correlated(shared(dims, prior_scale=prior_scale, basis=basis, interactions=interactions), exploration, draws)


def linear_thompson_hybrid(
    dims: Dims,
    *,
    prior_scale: float = 1.0,
    basis: Basis = "linear",
    interactions: Interactions = "all",
    exploration: float = EXPLORATION,
    draws: int = DRAWS,
) -> Policy:
    """Parameters per action on the context, and shared ones on action features and products (Li and others 2010, algorithm 2's model).

    Settings as in `CorrelatedThompsonSettings`. Raises PolicyError for pairs that are not there.
    """
    return _correlated(hybrid(dims, prior_scale=prior_scale, basis=basis, interactions=interactions), exploration, draws)


def _correlated(model: LinearModel, exploration: float, draws: int) -> Policy:
    def score(params: LinearParams, context: jax.Array, candidates: Candidates, key: jax.Array) -> JointScores:
        found = model.moments(params, context, candidates)
        return joint_scores(found, key, draws=draws, exploration=exploration, own=model.own_blocks)

    def choose(scores: JointScores, mask: jax.Array) -> jax.Array:
        return win_frequencies(scores.draws, mask)

    return Policy(init=model.init, update=model.update, prepare=model.prepare, score=score, choose=choose, merge=added)
