"""Bandits for rewards that are successes or shares of them: Thompson sampling and upper bounds on the log-odds.

Both stand on one regression, `logistic_regression`: disjoint actions, online Laplace, a prior at the base rate of all rows. The
log-odds of an action at a context are Gaussian, and the logistic function keeps order; so the largest log-odds win just as often as the
largest probabilities of success.
"""

import jax
import pydantic

from bandits.policies.logistic_regression import (
    LogisticParams,
    LogisticScores,
    LogisticState,
    logistic_init,
    logistic_prepare,
    logistic_score,
    logistic_update,
)
from bandits.policies.rules import greedy
from bandits.policy import Batch, Candidates, Dims, Policy
from bandits.win_probability import NODES, win_probabilities
from protos import config

__all__ = ["LogisticThompsonSettings", "LogisticUcbSettings", "logistic_thompson", "logistic_ucb"]


class LogisticThompsonSettings(config.StrictModel):
    """Settings of `logistic_thompson`."""

    #: Standard deviation a priori of an action's intercept, and of what its context adds, in log-odds, > 0.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)
    #: Steps of Newton's method a batch, 1..100.
    iterations: int = pydantic.Field(default=8, ge=1, le=100)
    #: Nodes of the quadrature, 32..256.
    nodes: int = pydantic.Field(default=NODES, ge=32, le=256)


class LogisticUcbSettings(config.StrictModel):
    """Settings of `logistic_ucb`."""

    #: Posterior standard deviations of the log-odds that are added to their mean, >= 0.
    alpha: float = pydantic.Field(default=1.0, ge=0.0)
    #: Standard deviation a priori of an action's intercept, and of what its context adds, in log-odds, > 0.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)
    #: Steps of Newton's method a batch, 1..100.
    iterations: int = pydantic.Field(default=8, ge=1, le=100)


def logistic_thompson(dims: Dims, *, prior_scale: float = 1.0, iterations: int = 8, nodes: int = NODES) -> Policy:
    """Logistic Thompson sampling: p_k = P(the posterior draw of k's log-odds is the largest), by quadrature.

    Rewards in [0, 1]; `prior_scale` > 0 in log-odds, `iterations` of Newton's method a batch, `nodes` of the quadrature. Chapelle and
    Li, "An empirical evaluation of Thompson sampling", NIPS 2011, algorithm 3, with full covariances.
    """

    def choose(scores: LogisticScores, mask: jax.Array) -> jax.Array:
        return win_probabilities(scores.logit, scores.logit_scale, mask, nodes=nodes)

    return _logistic(dims, prior_scale=prior_scale, iterations=iterations)._replace(choose=choose)


def logistic_ucb(dims: Dims, *, alpha: float = 1.0, prior_scale: float = 1.0, iterations: int = 8) -> Policy:
    """Logistic upper confidence bounds: the largest m_k + alpha s_k of log-odds N(m_k, s_k^2); ties share.

    Rewards in [0, 1]; `alpha` >= 0 and `prior_scale` > 0 in log-odds, `iterations` of Newton's method a batch. Filippi, Cappe,
    Garivier and Szepesvari, "Parametric bandits: the generalized linear case", NIPS 2010. Deterministic: it needs the floor.
    """

    def choose(scores: LogisticScores, mask: jax.Array) -> jax.Array:
        return greedy(scores.logit + alpha * scores.logit_scale, mask)

    return _logistic(dims, prior_scale=prior_scale, iterations=iterations)._replace(choose=choose)


def _logistic(dims: Dims, *, prior_scale: float, iterations: int) -> Policy:
    """All but the rule of choice, which is here the largest log-odds."""

    def init() -> LogisticState:
        return logistic_init(dims)

    def update(state: LogisticState, batch: Batch) -> LogisticState:
        return logistic_update(state, batch, prior_scale=prior_scale, iterations=iterations)

    def prepare(state: LogisticState) -> LogisticParams:
        return logistic_prepare(state, prior_scale=prior_scale)

    def score(params: LogisticParams, context: jax.Array, candidates: Candidates, key: jax.Array) -> LogisticScores:
        return logistic_score(params, context, candidates)

    def choose(scores: LogisticScores, mask: jax.Array) -> jax.Array:
        return greedy(scores.logit, mask)

    return Policy(init=init, update=update, prepare=prepare, score=score, choose=choose)
