"""LinUCB on the same Bayesian regression as linear Thompson sampling, in three forms.

    the largest of  mean_k + beta scale_k,   scale_k the posterior deviation, noise included

(Li, Chu, Langford and Schapire, "A contextual-bandit approach to personalized news article recommendation", WWW 2010.) The noise being
estimated, `beta` counts standard deviations and needs no knowledge of the reward's unit. The rule is deterministic, so what is logged
is the floor's mixture: 1 - floor + floor / K for the largest index, floor / K for the others.
"""

import jax
import pydantic

from bandits.policies.linear_design import Basis, Interactions
from bandits.policies.linear_form import LinearModel, disjoint, hybrid, shared
from bandits.policies.linear_posterior import GaussianScores, LinearParams
from bandits.policies.rules import greedy
from bandits.policy import Candidates, Dims, Policy, added
from protos import config

__all__ = ["FeaturesUcbSettings", "LinearUcbSettings", "linear_ucb", "linear_ucb_hybrid", "linear_ucb_shared"]

# Half a standard deviation: the model's noise is that of its worst region.
_BETA = 0.5


class LinearUcbSettings(config.StrictModel):
    """Settings of `linear_ucb`."""

    #: How much larger than by default a weight may be a priori, > 0. The default scale follows the features.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)
    #: `squares`: each feature also enters by its square; `linear`: not.
    basis: Basis = "squares"
    #: Posterior standard deviations that an action is believed above its mean, >= 0; 0 is greedy.
    beta: float = pydantic.Field(default=_BETA, ge=0.0)


class FeaturesUcbSettings(config.StrictModel):
    """Settings of `linear_ucb_shared` and `linear_ucb_hybrid`."""

    #: How much larger than by default a weight may be a priori, > 0. The default scale follows the features.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)
    #: `squares`: each feature also enters by its square; `linear`: not.
    basis: Basis = "linear"
    #: Products of a context column and an action feature: `all`, `none`, or pairs of places in the two encoded vectors, from 0.
    interactions: Interactions = "all"
    #: Posterior standard deviations that an action is believed above its mean, >= 0; 0 is greedy.
    beta: float = pydantic.Field(default=_BETA, ge=0.0)


def linear_ucb(dims: Dims, *, prior_scale: float = 1.0, basis: Basis = "squares", beta: float = _BETA) -> Policy:
    """Disjoint: parameters per action, on the context alone. Settings as in `LinearUcbSettings`."""
    return _optimist(disjoint(dims, prior_scale=prior_scale, basis=basis), beta)


def linear_ucb_shared(
    dims: Dims, *, prior_scale: float = 1.0, basis: Basis = "linear", interactions: Interactions = "all", beta: float = _BETA
) -> Policy:
    """One parameter vector on context, action features and their products. Settings as in `FeaturesUcbSettings`."""
    return _optimist(shared(dims, prior_scale=prior_scale, basis=basis, interactions=interactions), beta)


def linear_ucb_hybrid(
    dims: Dims, *, prior_scale: float = 1.0, basis: Basis = "linear", interactions: Interactions = "all", beta: float = _BETA
) -> Policy:
    """Parameters per action and shared ones (algorithm 2 of the paper). Settings as in `FeaturesUcbSettings`."""
    return _optimist(hybrid(dims, prior_scale=prior_scale, basis=basis, interactions=interactions), beta)


def _optimist(model: LinearModel, beta: float) -> Policy:
    def score(params: LinearParams, context: jax.Array, candidates: Candidates, key: jax.Array) -> GaussianScores:
        found = model.moments(params, context, candidates)
        return GaussianScores(mean=found.mean, scale=found.scale)

    def choose(scores: GaussianScores, mask: jax.Array) -> jax.Array:
        return greedy(scores.mean + beta * scores.scale, mask)

    return Policy(init=model.init, update=model.update, prepare=model.prepare, score=score, choose=choose, merge=added)
