"""Several outcomes of one action, each with a Bayesian model of its own, and joint draws of all of them for the candidates of a request.

    linear     E[y_t | x, a] = theta_ta . x      the regression of `linear_posterior`, disjoint actions
    logistic   P(y_t = 1 | x, a) = sigma(w_ta . z)     that of `logistic_regression`, for outcomes that are successes or shares of them

The outcomes of an action are independent given the context: their posteriors are. States of one kind are stacked along a first axis, so
each kind is one factorisation of its program however many outcomes there are.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from bandits.policies.linear_design import Basis
from bandits.policies.linear_form import disjoint
from bandits.policies.logistic_regression import logistic_init, logistic_prepare, logistic_score, logistic_update
from bandits.policies.posterior_draws import normals
from bandits.policy import Batch, Candidates, Dims

__all__ = ["Kind", "OutcomeDraws", "OutcomeModels", "Stacked"]

Kind = Literal["linear", "logistic"]
# Steps of Newton's method a batch: what `logistic_thompson` takes by default.
_ITERATIONS = 8
# Second word of the counters of this file's numbers (see `bandits.keys`; `posterior_draws` has 4 and 5).
_OUTCOMES = 6


class Stacked(NamedTuple):
    """What is learned, or prepared, of the outcomes of each kind, stacked along a first axis; None where there is no such outcome."""

    linear: Any
    logistic: Any


class OutcomeDraws(NamedTuple):
    """Of K candidates and T outcomes: `mean` and `scale` f64[K] of the first outcome; `draws` f64[K, T, M] of all.

    `extra` f64[T, M]: of one more action, the same as a candidate's where it is one of them.
    """

    mean: jax.Array
    scale: jax.Array
    draws: jax.Array
    extra: jax.Array


class _Gaussians(NamedTuple):
    """Mean and scale of the expected outcome in its own unit, and of the Gaussian behind it (log-odds for a logistic one), [T, K]."""

    mean: jax.Array
    scale: jax.Array
    centre: jax.Array
    spread: jax.Array


class OutcomeModels:
    """The models of T outcomes; `kinds` says which each has. Pure functions of their arguments."""

    def __init__(self, dims: Dims, kinds: Sequence[Kind], *, prior_scale: float, basis: Basis) -> None:
        self._dims, self._prior_scale = dims, prior_scale
        self._linear = disjoint(dims, prior_scale=prior_scale, basis=basis)
        self._places = {kind: [t for t, own in enumerate(kinds) if own == kind] for kind in ("linear", "logistic")}
        self._order = jnp.argsort(jnp.asarray(self._places["linear"] + self._places["logistic"]))

    @property
    def exact(self) -> bool:
        """Whether rows are summed, so that batches commute and merge: linear models only."""
        return not self._places["logistic"]

    def init(self) -> Stacked:
        """No rows."""
        return Stacked(self._repeated("linear", self._linear.init()), self._repeated("logistic", logistic_init(self._dims)))

    def update(self, state: Stacked, batch: Batch, values: jax.Array) -> Stacked:
        """The state with rows whose outcomes are `values`, f64[n, T]."""

        def linear(one: Any, reward: jax.Array) -> Any:
            return self._linear.update(one, batch._replace(reward=reward))

        def logistic(one: Any, reward: jax.Array) -> Any:
            return logistic_update(one, batch._replace(reward=reward), prior_scale=self._prior_scale, iterations=_ITERATIONS)

        return Stacked(self._each("linear", linear, state.linear, values), self._each("logistic", logistic, state.logistic, values))

    def prepare(self, state: Stacked) -> Stacked:
        """Posteriors. One factorisation waits for the other: two side by side may wait for ever (see `logistic_regression`)."""
        linear = None if state.linear is None else jax.vmap(self._linear.prepare)(state.linear)
        if state.logistic is None:
            return Stacked(linear, None)
        linear, sites = jax.lax.optimization_barrier((linear, state.logistic))
        return Stacked(linear, jax.vmap(lambda one: logistic_prepare(one, prior_scale=self._prior_scale))(sites))

    def draw(
        self,
        params: Stacked,
        context: jax.Array,
        candidates: Candidates,
        key: jax.Array,
        *,
        width: jax.Array,
        draws: int,
        extra: int | None,
    ) -> OutcomeDraws:
        """M = `draws` joint draws for a request's candidates, and for the action `extra` of the table (None: no other, `extra` is zero).

        `width` f64[T]: deviations of a draw in deviations of the posterior. The numbers follow from the key and a candidate's place.
        """
        k, t = candidates.action.shape[0], width.shape[0]
        actions = candidates.action if extra is None else jnp.append(candidates.action, jnp.asarray(extra, jnp.int32))
        found = self._gaussians(params, context, Candidates.of(actions))
        # The first row is the other action's, so that a candidate's numbers do not depend on how many there are.
        noise = normals(key, ((k + 1) * t, draws), purpose=_OUTCOMES).reshape(k + 1, t, draws)
        of_extra, noise = noise[:1], noise[1:]
        if extra is not None:
            same = candidates.action == extra
            noise = jnp.concatenate([noise, jnp.where(jnp.any(same), noise[jnp.argmax(same)], of_extra[0])[None]])
        values = found.centre.T[:, :, None] + (width[None, :] * found.spread.T)[:, :, None] * noise
        for place in self._places["logistic"]:
            values = values.at[:, place].set(jax.nn.sigmoid(values[:, place]))
        other = jnp.zeros((t, draws), jnp.float64) if extra is None else values[k]
        return OutcomeDraws(mean=found.mean[0, :k], scale=found.scale[0, :k], draws=values[:k], extra=other)

    def _gaussians(self, params: Stacked, context: jax.Array, candidates: Candidates) -> _Gaussians:
        parts = []
        if params.linear is not None:
            moments = jax.vmap(self._linear.moments, in_axes=(0, None, None))(params.linear, context, candidates)
            parts.append(_Gaussians(moments.mean, moments.own_scale, moments.mean, moments.own_scale))
        if params.logistic is not None:
            scores = jax.vmap(logistic_score, in_axes=(0, None, None))(params.logistic, context, candidates)
            parts.append(_Gaussians(scores.mean, scores.scale, scores.logit, scores.logit_scale))
        return _Gaussians(*(jnp.concatenate(columns)[self._order] for columns in zip(*parts, strict=True)))

    def _repeated(self, kind: str, one: Any) -> Any:
        count = len(self._places[kind])
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (count, *leaf.shape)), one) if count else None

    def _each(self, kind: str, learn: Any, stacked: Any, values: jax.Array) -> Any:
        columns = [values[:, place] for place in self._places[kind]]
        return jax.vmap(learn)(stacked, jnp.stack(columns)) if columns else None
