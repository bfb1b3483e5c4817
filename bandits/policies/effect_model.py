"""A learned model of what each action does for each context, as `bandits personalise` makes it: a line, or a line and boosted trees.

    mean_a(x) = c_a + w_a . x + sum of the leaves of a's trees

`linear_hte` has a standard error beside it where its covariances are given, and then plays by Thompson sampling: the probability that a's
draw N(mean_a, x' S_a x) is the largest. `boosted_hte` plays so by `draws`, models that were learned on other samples of the rows: p_k is
the share of them to which k is the best, which is exact by counting. Else the largest mean is played, and exploration is the floor's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pydantic

from bandits.errors import PolicyError
from bandits.policies.ensemble import EnsembleScores
from bandits.policies.linear_posterior import GaussianScores
from bandits.policies.policy_tree import leaf_of, thresholds
from bandits.policies.row_count import count_rows, no_rows, nothing
from bandits.policies.rules import greedy
from bandits.policy import Candidates, Dims, Policy, added
from bandits.win_probability import win_probabilities
from protos import config

__all__ = ["BoostedHteSettings", "LinearHteSettings", "boosted_hte", "linear_hte"]

Numbers = Sequence[float]
Means = Callable[[jax.Array], jax.Array]


class LinearHteSettings(config.StrictModel):
    """Settings of `linear_hte`: none = no model, and even probabilities."""

    #: c_a of each action of the table, in units of reward, costs taken off.
    intercept: tuple[float, ...] = ()
    #: w_a of each action, one number a place of the encoded context.
    weight: tuple[tuple[float, ...], ...] = ()
    #: S_a of each action, of intercept and weights; none = no draws.
    covariance: tuple[tuple[tuple[float, ...], ...], ...] = ()


class BoostedModel(config.StrictModel):
    """A line and boosted trees."""

    #: c_a of each action of the table, in units of reward, costs taken off.
    intercept: tuple[float, ...] = ()
    #: w_a of each action; none = trees alone.
    weight: tuple[tuple[float, ...], ...] = ()
    #: Whose tree each is: a place in the action table.
    action: tuple[int, ...] = ()
    #: Of each tree, the place in the context that each inner node looks at, level by level.
    feature: tuple[tuple[int, ...], ...] = ()
    #: Of each tree, its thresholds; null = every row goes left.
    threshold: tuple[tuple[float | None, ...], ...] = ()
    #: Of each tree, what its leaves add.
    value: tuple[tuple[float, ...], ...] = ()

    @pydantic.model_validator(mode="after")
    def _is_complete(self) -> "BoostedModel":
        sizes = {len(leaves) for leaves in self.value}
        inner = {len(each) + 1 for each in (*self.feature, *self.threshold)}
        if len(sizes) > 1 or sizes != inner or any(size & (size - 1) for size in sizes):
            raise ValueError(
                f"trees with {sorted(sizes)} leaves and {sorted(each - 1 for each in inner)} inner nodes; give one complete shape"
            )
        if not len(self.action) == len(self.feature) == len(self.threshold) == len(self.value):
            raise ValueError("`action`, `feature`, `threshold` and `value` have one entry a tree each")
        return self


class BoostedHteSettings(BoostedModel):
    """Settings of `boosted_hte`: none = no model, and even probabilities."""

    #: Models of samples of the rows, 2..256 or none: then each request is decided by one of them, drawn with even chances.
    draws: tuple[BoostedModel, ...] = ()

    @pydantic.field_validator("draws")
    @classmethod
    def _several(cls, given: tuple[BoostedModel, ...]) -> tuple[BoostedModel, ...]:
        if len(given) == 1 or len(given) > 256:
            raise ValueError(f"{len(given)} models to draw from; give 2 to 256, or none")
        return given


def linear_hte(
    dims: Dims, *, intercept: Numbers = (), weight: Sequence[Numbers] = (), covariance: Sequence[Sequence[Numbers]] = ()
) -> Policy:
    """p_k = [c_k + w_k . x is the largest], or the probability that its draw is, where covariances are given. Its state counts rows, f64[].

    The arrays are those of the settings. Raises PolicyError where their shapes are not those of context and action table.
    """
    means = _linear(dims, intercept, weight)
    if covariance:
        _shaped("covariance", [[len(row) for row in each] for each in covariance], [[dims.context + 1] * (dims.context + 1)] * dims.actions)
    spread = jnp.asarray(covariance, jnp.float64)

    def scales(context: jax.Array) -> jax.Array:
        if not covariance:
            return jnp.zeros(dims.actions, jnp.float64)
        with_one = jnp.concatenate([jnp.ones(1, jnp.float64), context])
        return jnp.sqrt(jnp.maximum(jnp.einsum("i,aij,j->a", with_one, spread, with_one), 0.0))

    return _policy(means, scales, draws=bool(covariance))


def boosted_hte(
    dims: Dims,
    *,
    intercept: Numbers = (),
    weight: Sequence[Numbers] = (),
    action: Sequence[int] = (),
    feature: Sequence[Sequence[int]] = (),
    threshold: Sequence[Sequence[float | None]] = (),
    value: Sequence[Numbers] = (),
    draws: Sequence[Mapping[str, Any]] = (),
) -> Policy:
    """p_k = [c_k + w_k . x + the leaves of k's boosted trees is the largest], or the share of `draws` to which it is. Its state counts
    rows, f64[].

    The arrays are those of the settings. Raises PolicyError where their shapes are not those of context and action table.
    """
    given = {"intercept": intercept, "weight": weight, "action": action, "feature": feature, "threshold": threshold, "value": value}
    means = _boosted(dims, BoostedModel.model_validate(given))
    if not draws:
        return _policy(means, lambda context: jnp.zeros(dims.actions, jnp.float64), draws=False)
    members = [_boosted(dims, BoostedModel.model_validate(each)) for each in draws]

    def score(params: jax.Array, context: jax.Array, candidates: Candidates, key: jax.Array) -> EnsembleScores:
        said = jnp.stack([member(context) for member in members], axis=1)
        said = jnp.concatenate([said, jnp.min(said, axis=0, keepdims=True)])[candidates.action]
        mean = means(context)
        return EnsembleScores(mean=jnp.append(mean, jnp.min(mean))[candidates.action], scale=jnp.std(said, axis=1), draws=said)

    def choose(scores: EnsembleScores, mask: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(greedy, in_axes=(1, None))(scores.draws, mask), axis=0)

    return Policy(init=no_rows, update=count_rows, prepare=nothing, score=score, choose=choose, merge=added)


def _boosted(dims: Dims, model: BoostedModel) -> Means:
    """The means of one line and its trees."""
    line = _linear(dims, model.intercept, model.weight)
    _places("feature", [place for each in model.feature for place in each], dims.context)
    _places("action", model.action, dims.actions)
    if not model.action:
        return line
    features, leaves = jnp.asarray(model.feature, jnp.int32), jnp.asarray(model.value, jnp.float64)
    bounds = jnp.asarray([thresholds(each) for each in model.threshold], jnp.float64).reshape(features.shape)
    owner = jnp.asarray(model.action, jnp.int32)

    def means(context: jax.Array) -> jax.Array:
        at = jax.vmap(leaf_of, in_axes=(0, 0, None))(features, bounds, context)
        said = jnp.take_along_axis(leaves, at[:, None], axis=1)[:, 0]
        return line(context) + jnp.zeros(dims.actions, jnp.float64).at[owner].add(said)

    return means


def _policy(means: Means, scales: Means, *, draws: bool) -> Policy:
    def score(params: jax.Array, context: jax.Array, candidates: Candidates, key: jax.Array) -> GaussianScores:
        mean, scale = means(context), scales(context)
        # Of an action that the table lacks nothing is known: it is as good as the worst one, and no better by luck.
        mean, scale = jnp.append(mean, jnp.min(mean)), jnp.append(scale, jnp.zeros(1, jnp.float64))
        return GaussianScores(mean=mean[candidates.action], scale=scale[candidates.action])

    def choose(scores: GaussianScores, mask: jax.Array) -> jax.Array:
        return win_probabilities(scores.mean, scores.scale, mask) if draws else greedy(scores.mean, mask)

    return Policy(init=no_rows, update=count_rows, prepare=nothing, score=score, choose=choose, merge=added)


def _linear(dims: Dims, intercept: Numbers, weight: Sequence[Numbers]) -> Means:
    if intercept:
        _shaped("intercept", len(intercept), dims.actions)
    if weight:
        _shaped("weight", [len(each) for each in weight], [dims.context] * dims.actions)
    constant = jnp.asarray(intercept or [0.0] * dims.actions, jnp.float64)
    slopes = jnp.asarray(weight or [[0.0] * dims.context] * dims.actions, jnp.float64).reshape(dims.actions, dims.context)
    return lambda context: constant + slopes @ context


def _shaped(name: str, given: object, wanted: object) -> None:
    if given != wanted:
        raise PolicyError(f"policy.settings.{name}: of shape {given}, the task's context and actions make it {wanted}; give that")


def _places(name: str, places: Sequence[int], size: int) -> None:
    for place in places:
        if not 0 <= place < size:
            raise PolicyError(f"policy.settings.{name}: {place} is no place of the {size} that there are; give one below that")
