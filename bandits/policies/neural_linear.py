"""Neural-linear: a network makes features of the context, a Bayesian linear regression on them decides.

    y = w_a . phi(x) + noise,  phi the last hidden layer of a network that was trained to predict the reward of each action

(Riquelme, Tucker and Snoek, "Deep Bayesian bandits showdown", ICLR 2018.) The head is the regression of `linear_thompson` on phi in
place of the context, so noise, prior and cold actions are as there, and the actions are independent given the network.

The network is trained again now and then, on a replay window in the state. Old features mean nothing to the new network: the head is
then made anew from the window's rows, exactly, and rows that have left the window are forgotten. Between trainings every row counts.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.policies.linear_thompson import GaussianScores, linear_thompson
from bandits.policies.network import Network, Weights, multilayer, trained
from bandits.policies.replay import Standard, Window, appended, as_batch, empty_window, standard_of
from bandits.policy import Batch, Candidates, Dims, Params, Policy, State
from protos import config

__all__ = ["NeuralLinearSettings", "NeuralLinearState", "neural_linear"]

# Rows before the first training: fewer than this say little of what the features should be.
_FIRST_TRAINING = 32


class NeuralLinearSettings(config.StrictModel):
    """Settings of `neural_linear`."""

    #: Units of the first hidden layer, 1..4096.
    hidden: int = pydantic.Field(default=64, ge=1, le=4096)
    #: Units of the last hidden layer: the features of the head, 1..1024.
    features: int = pydantic.Field(default=32, ge=1, le=1024)
    #: Rows of the replay window, >= 64. They are part of every snapshot.
    window: int = pydantic.Field(default=4096, ge=64)
    #: Rows between trainings of the network, >= 1; it is trained earlier while the rows have doubled.
    retrain_every: int = pydantic.Field(default=1024, ge=1)
    #: Minibatches of 64 rows a training, >= 1.
    steps: int = pydantic.Field(default=300, ge=1)
    #: How much larger than by default a weight of the head may be a priori, > 0.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)
    #: Seed of the network's first weights.
    seed: int = pydantic.Field(default=0, ge=0)


class _Weights(NamedTuple):
    """Of the features, and of the layer that turns them into predicted rewards while the network is trained."""

    body: Weights
    last: Weights


class _Body(NamedTuple):
    """phi(x) = features of (x - centre) inverse_spread under `weights`."""

    weights: _Weights
    standard: Standard


class NeuralLinearState(NamedTuple):
    """`body`: the network; `head`: the regression's state on its features; `window`: the newest rows; `trained` i64[]: rows that had
    come when the network was last trained."""

    body: _Body
    head: State
    window: Window
    trained: jax.Array


class _Params(NamedTuple):
    body: _Body
    head: Params


def neural_linear(
    dims: Dims,
    *,
    hidden: int = 64,
    features: int = 32,
    window: int = 4096,
    retrain_every: int = 1024,
    steps: int = 300,
    prior_scale: float = 1.0,
    seed: int = 0,
) -> Policy:
    """Thompson sampling on a Bayesian linear head over a network of two hidden layers.

    `hidden` and `features`: units of the layers; `window`: rows kept; `retrain_every` rows, `steps` minibatches of 64 a training;
    `prior_scale` > 0 of the head; `seed` of the first weights. Only rows of weight above 0 count.
    """
    body = multilayer((dims.context, hidden, features))
    last = multilayer((features, dims.actions), last="zero")
    head = linear_thompson(Dims(actions=dims.actions, context=features, features=0), prior_scale=prior_scale, basis="linear")

    def init() -> NeuralLinearState:
        keys = jax.random.split(jax.random.key(seed), 2)
        untouched = Standard(jnp.zeros(dims.context, jnp.float64), jnp.ones(dims.context, jnp.float64))
        return NeuralLinearState(
            body=_Body(_Weights(body.init(keys[0]), last.init(keys[1])), untouched),
            head=head.init(),
            window=empty_window(dims, size=window),
            trained=jnp.zeros((), jnp.int64),
        )

    def update(state: NeuralLinearState, batch: Batch) -> NeuralLinearState:
        kept = batch._replace(weight=jnp.maximum(batch.weight, 0.0))
        on_features = kept._replace(context=_features(body, state.body, kept.context))
        state = state._replace(head=head.update(state.head, on_features), window=appended(state.window, kept))
        since = state.window.rows - state.trained
        due = since >= jnp.clip(state.trained, _FIRST_TRAINING, retrain_every)
        # A loop of one round or none: under vmap it costs nothing while no member is due, where a branch would run always.
        return jax.lax.fori_loop(0, due.astype(jnp.int32), retrain, state)

    def retrain(_: Any, state: NeuralLinearState) -> NeuralLinearState:
        rows = state.window
        new = _trained_body(body, last, state.body.weights, rows, steps=steps)
        on_features = as_batch(rows, context=_features(body, new, rows.context))
        return state._replace(body=new, head=head.update(head.init(), on_features), trained=rows.rows)

    def prepare(state: NeuralLinearState) -> _Params:
        return _Params(body=state.body, head=head.prepare(state.head))

    def score(params: _Params, context: jax.Array, candidates: Candidates, key: jax.Array) -> GaussianScores:
        return head.score(params.head, _features(body, params.body, context), candidates, key)

    return Policy(init=init, update=update, prepare=prepare, score=score, choose=head.choose)


def _features(network: Network, body: _Body, context: jax.Array) -> jax.Array:
    return network.apply(body.weights.body, body.standard.of(context))


def _trained_body(body: Network, last: Network, weights: _Weights, window: Window, *, steps: int) -> _Body:
    """The network after a training on the window: squared error of the standardised reward of the action that was shown."""
    standard, of_reward = standard_of(window.context, window.weight), standard_of(window.reward, window.weight)
    x, y = standard.of(window.context), of_reward.of(window.reward)

    def loss(weights: _Weights, rows: jax.Array) -> jax.Array:
        predicted = last.apply(weights.last, body.apply(weights.body, x[rows]))
        of_shown = jnp.take_along_axis(predicted, window.action[rows][:, None], axis=1)[:, 0]
        return jnp.mean(window.weight[rows] * (of_shown - y[rows]) ** 2)

    return _Body(weights=trained(loss, weights, window, steps=steps), standard=standard)
