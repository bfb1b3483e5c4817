"""Off-policy learning: a softmax policy that is trained on what its value would have been, less a price for not knowing it well.

    pi(a | x) = exp(theta_a . z) / sum_b exp(theta_b . z),   z = (1, standardised context)
    maximise  mean_i g_i - variance_penalty sqrt(var(g) / n) - l2 |theta|^2 / n   over rows i of context, action, reward y, propensity p

    ips:  g_i = (y_i - mean y) w_i                                          w_i = min(pi(a_i | x_i) / p_i, largest_weight)
    dr:   g_i = sum_a pi(a | x_i) q(x_i, a) + (y_i - q(x_i, a_i)) w_i       q: the linear regression of all rows

(Swaminathan and Joachims, "Counterfactual risk minimization", ICML 2015, eq. 6; doubly robust after Dudik, Langford and Li, ICML 2011.)
Rewards count in their standard deviations. Taking the mean off in `ips` changes nothing in expectation, for weights have mean one, and
keeps a policy from gaining by avoiding or seeking rows as such. q is fitted on the rows that it corrects, so `dr` leans on it a little
more than cross-fitting would. Rows of all slots count, each with its conditional propensity; the sum runs over the whole action table,
so eligibility that varied between requests is left out of account.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.policies.network import descended
from bandits.policies.regression import Regression, linear_regression
from bandits.policies.replay import Standard, Window, appended, empty_window, standard_of
from bandits.policies.rules import boltzmann
from bandits.policy import Batch, Candidates, Dims, Params, Policy, State
from protos import config

__all__ = ["CounterfactualScores", "CounterfactualSettings", "CounterfactualState", "Objective", "Rows", "counterfactual", "loss"]

# Adam's step size: a logit moves by at most some 0.1 a step and feature, so 100 steps can settle a policy.
_STEP_SIZE = 0.05
# Under the root of the variance, squared standard deviations of the reward: its slope at zero is finite.
_LEAST_VARIANCE = 1e-12


class CounterfactualSettings(config.StrictModel):
    """Settings of `counterfactual`."""

    #: What the value is estimated by: `dr` doubly robust, `ips` inverse propensities alone.
    estimator: Literal["dr", "ips"] = "dr"
    #: Standard errors of the estimate that are taken off it, >= 0.
    variance_penalty: float = pydantic.Field(default=1.0, ge=0.0)
    #: Weights pi / p above this count as this, > 0.
    largest_weight: float = pydantic.Field(default=20.0, gt=0.0)
    #: Price of squared parameters, in rows, >= 0.
    l2: float = pydantic.Field(default=1.0, ge=0.0)
    #: Rows of the replay window, >= 64. They are part of every snapshot.
    window: int = pydantic.Field(default=4096, ge=64)
    #: Steps of Adam an update, over the whole window, >= 1.
    steps: int = pydantic.Field(default=50, ge=1)
    #: How much larger than by default a weight of the regression may be a priori, > 0.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)


class _Learned(NamedTuple):
    """`theta` f64[A, d+1], and what standardises the context that it multiplies."""

    theta: jax.Array
    standard: Standard


class CounterfactualState(NamedTuple):
    """`learned`: the policy; `window`: the rows that it is trained on; `regression`: state of the model, of all rows."""

    learned: _Learned
    window: Window
    regression: State


class CounterfactualScores(NamedTuple):
    """`mean` and `scale` f64[K] of the regression; `logit` f64[K]: what the policy draws by, 0 for the cold action."""

    mean: jax.Array
    scale: jax.Array
    logit: jax.Array


class _Params(NamedTuple):
    learned: _Learned
    regression: Params


class Objective(NamedTuple):
    """`variance_penalty` >= 0 in standard errors, `largest_weight` > 0, `l2` >= 0 in rows."""

    variance_penalty: float
    largest_weight: float
    l2: float


class Rows(NamedTuple):
    """What the objective reads: `z` [W, d+1]; `action`, `residual` of the reward, `weight` (0 = empty) and `propensity` [W];
    `model` [W, A] the model's values, zero where the estimator has none. Rewards in standard deviations."""

    z: jax.Array
    action: jax.Array
    residual: jax.Array
    weight: jax.Array
    propensity: jax.Array
    model: jax.Array


def counterfactual(
    dims: Dims,
    *,
    estimator: Literal["dr", "ips"] = "dr",
    variance_penalty: float = 1.0,
    largest_weight: float = 20.0,
    l2: float = 1.0,
    window: int = 4096,
    steps: int = 50,
    prior_scale: float = 1.0,
    regression: Regression = linear_regression,
) -> Policy:
    """A softmax policy by counterfactual risk minimisation on `Batch.propensity`.

    `estimator` of its value; `variance_penalty` >= 0 standard errors; `largest_weight` > 0; `l2` >= 0; `window` rows; `steps` of Adam
    an update; `prior_scale` > 0 and `regression` make the model. Only rows of weight above 0 count.
    """
    model = regression(dims, prior_scale=prior_scale)
    objective = Objective(variance_penalty=variance_penalty, largest_weight=largest_weight, l2=l2)
    rows_for = {"dr": _doubly_robust, "ips": _inverse_propensity}[estimator]

    def init() -> CounterfactualState:
        standard = Standard(jnp.zeros(dims.context, jnp.float64), jnp.ones(dims.context, jnp.float64))
        theta = jnp.zeros((dims.actions, dims.context + 1), jnp.float64)
        return CounterfactualState(_Learned(theta, standard), empty_window(dims, size=window), model.init())

    def update(state: CounterfactualState, batch: Batch) -> CounterfactualState:
        kept = batch._replace(weight=jnp.maximum(batch.weight, 0.0))
        rows, fitted = appended(state.window, kept), model.update(state.regression, kept)

        def learn(_: Any, learned: _Learned) -> _Learned:
            standard = standard_of(rows.context, rows.weight)
            seen = rows_for(rows, standard, _predictions(model, fitted, rows, dims))
            slope = jax.grad(lambda theta, step: loss(theta, seen, objective))
            return _Learned(descended(slope, learned.theta, steps=steps, step_size=_STEP_SIZE), standard)

        # A loop of one round or none: without new rows nothing changes.
        learned = jax.lax.fori_loop(0, (rows.rows > state.window.rows).astype(jnp.int32), learn, state.learned)
        return CounterfactualState(learned, rows, fitted)

    def prepare(state: CounterfactualState) -> _Params:
        return _Params(learned=state.learned, regression=model.prepare(state.regression))

    def score(params: _Params, context: jax.Array, candidates: Candidates, key: jax.Array) -> CounterfactualScores:
        predicted = model.score(params.regression, context, candidates, key)
        logits = params.learned.theta @ _design(params.learned.standard, context)
        logit = jnp.concatenate([logits, jnp.zeros(1, jnp.float64)])[candidates.action]
        return CounterfactualScores(mean=predicted.mean, scale=predicted.scale, logit=logit)

    def choose(scores: CounterfactualScores, mask: jax.Array) -> jax.Array:
        return boltzmann(scores.logit, mask)

    return Policy(init=init, update=update, prepare=prepare, score=score, choose=choose)


def _design(standard: Standard, context: jax.Array) -> jax.Array:
    """(1, standardised context), [..., d+1]."""
    return jnp.concatenate([jnp.ones((*context.shape[:-1], 1), jnp.float64), standard.of(context)], axis=-1)


def _predictions(model: Policy, state: State, rows: Window, dims: Dims) -> jax.Array:
    """The regression's mean for every row and action of the table, [W, A]; features of actions are zero."""
    params = model.prepare(state)
    every = Candidates.of(jnp.arange(dims.actions, dtype=jnp.int32), features=jnp.zeros((dims.actions, dims.features), jnp.float64))
    return jax.vmap(lambda context: model.score(params, context, every, jax.random.key(0)).mean)(rows.context)


def _doubly_robust(rows: Window, standard: Standard, predictions: jax.Array) -> Rows:
    of_shown = jnp.take_along_axis(predictions, rows.action[:, None], axis=1)[:, 0]
    scale = standard_of(rows.reward, rows.weight).inverse_spread
    return Rows(
        _design(standard, rows.context), rows.action, (rows.reward - of_shown) * scale, rows.weight, rows.propensity, predictions * scale
    )


def _inverse_propensity(rows: Window, standard: Standard, predictions: jax.Array) -> Rows:
    residual = standard_of(rows.reward, rows.weight).of(rows.reward)
    return Rows(_design(standard, rows.context), rows.action, residual, rows.weight, rows.propensity, jnp.zeros_like(predictions))


def loss(theta: jax.Array, rows: Rows, objective: Objective) -> jax.Array:
    """Minus the penalised value of the softmax policy `theta`, f64[], in standard deviations of the reward; see the top of this file."""
    probabilities = jax.nn.softmax(rows.z @ theta.T, axis=1)
    of_shown = jnp.take_along_axis(probabilities, rows.action[:, None], axis=1)[:, 0]
    weight = jnp.minimum(of_shown / rows.propensity, objective.largest_weight)
    gain = jnp.sum(probabilities * rows.model, axis=1) + rows.residual * weight
    n = jnp.maximum(jnp.sum(rows.weight), 1.0)
    mean = rows.weight @ gain / n
    variance = rows.weight @ (gain - mean) ** 2 / n
    return -mean + objective.variance_penalty * jnp.sqrt((variance + _LEAST_VARIANCE) / n) + objective.l2 * jnp.sum(theta**2) / n
