"""Simulated logs whose truth is known, R replications at once, for asking how often an interval holds. Pure: draws come from the rng given.

    near         a target close to the logging policy                       n rows, each a unit
    far          a target that moved away from it
    clusters     users with an effect of their own who keep one action      users x rows a user
    retrained    a logging policy fitted anew to its own log every day

K actions, contexts of 5 standard normals, rewards of 0 or 1 with a logistic mean. The logging policy is a softmax of a noisy version of the
mean, mixed with 10 % uniform.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ope.rows import Batch, Floats

__all__ = ["DESIGNS", "Design", "Replications", "draw", "truth"]

ACTIONS, FEATURES, UNIFORM, FOLDS = 10, 5, 0.1, 2
_SHARPNESS, _NOISE = 3.0, 0.5
# One world for all: what differs between replications is the log.
_WORLD = np.random.default_rng(20261124)
_MEAN = _WORLD.normal(0, 0.6, (ACTIONS, FEATURES + 1))
_NOISY = _MEAN + _WORLD.normal(0, _NOISE, _MEAN.shape)
_ELSEWHERE = _WORLD.normal(0, 0.6, _MEAN.shape)
_USER_EFFECT = 1.0
_RIDGE = 1.0
TRUTH_CONTEXTS = 400_000


class Design(NamedTuple):
    """A way in which logs come about."""

    # Independent units of a log, and rows of each.
    units: int
    rows_of_a_unit: int
    # How sharp the target is, and which scores it follows.
    sharpness: float
    scores: Floats
    # Days after each of which the logging policy is fitted to the log so far; 1 = it never is.
    days: int = 1

    @property
    def rows(self) -> int:
        """Rows of a log."""
        return self.units * self.rows_of_a_unit


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        "near": Design(2_000, 1, 6.0, _NOISY),
        "far": Design(2_000, 1, 6.0, _ELSEWHERE),
        "clusters": Design(500, 20, 6.0, _NOISY),
        "retrained": Design(2_000, 1, 6.0, _NOISY, days=10),
    }
)


class Replications(NamedTuple):
    """R logs of n rows each, replication by replication, under the target and under the champion: the logging policy where that is one."""

    target: Batch
    champion: Batch


def truth(design: Design, *, rng: np.random.Generator) -> tuple[float, float]:
    """Value of the target and of the champion over fresh contexts with exact action probabilities."""
    context = rng.normal(size=(TRUTH_CONTEXTS, FEATURES))
    mean = _reward_mean(context, _effect(design, rng, (TRUTH_CONTEXTS,)))
    target, champion = (float((chance * mean).sum(axis=-1).mean()) for chance in (_target(design, context), _fixed(context)))
    return target, champion


def draw(design: Design, *, replications: int, rng: np.random.Generator) -> Replications:
    """So many logs of the design."""
    shape = (replications, design.units)
    context, uniform = rng.normal(size=(*shape, FEATURES)), rng.random(shape)
    mean = _reward_mean(context, _effect(design, rng, shape))
    luck = rng.random((*shape, design.rows_of_a_unit))
    if design.days == 1:
        logging = _fixed(context)
        action = _drawn(logging, uniform)
        reward = (luck < _at(mean, action)[..., None]).astype(np.float64)
    else:
        logging, action, reward = _by_day(design, context, mean, uniform, luck)
    return _batches(design, context, logging, action, reward)


def _batches(design: Design, context: Floats, logging: Floats, action: npt.NDArray[np.intp], reward: Floats) -> Replications:
    model = _cross_fitted(context, action, reward.mean(axis=-1))

    def rows(by_unit: Floats) -> Floats:
        return np.repeat(by_unit.reshape(-1), design.rows_of_a_unit)[:, None]

    def under(policy: Floats) -> Batch:
        return Batch(
            reward=reward.reshape(-1, 1),
            weight=rows(_at(policy, action) / _at(logging, action)),
            q_logged=rows(_at(model, action)),
            v_target=rows((policy * model).sum(axis=-1)),
        )

    return Replications(under(_target(design, context)), under(_fixed(context)))


def _by_day(design: Design, context: Floats, mean: Floats, uniform: Floats, luck: Floats) -> tuple[Floats, npt.NDArray[np.intp], Floats]:
    """Each day's policy is fitted to the days before it; the first is uniform."""
    replications, units = uniform.shape
    a_day = units // design.days
    logging, action = np.full((replications, units, ACTIONS), 1 / ACTIONS), np.zeros((replications, units), np.intp)
    reward = np.zeros_like(luck)
    for day in range(design.days):
        now, past = slice(day * a_day, (day + 1) * a_day), slice(0, day * a_day)
        if day:
            fitted = _predicted(_fitted(context[:, past], action[:, past], reward[:, past, 0]), context[:, now])
            logging[:, now] = _explored(_softmax(2 * _SHARPNESS * fitted))
        action[:, now] = _drawn(logging[:, now], uniform[:, now])
        reward[:, now] = luck[:, now] < _at(mean[:, now], action[:, now])[..., None]
    return logging, action, reward


def _cross_fitted(context: Floats, action: npt.NDArray[np.intp], reward: Floats) -> Floats:
    """Reward of every action by a model that never saw the unit, f64[R, n, K]: odd units speak of even ones, and back."""
    model = np.empty((*action.shape, ACTIONS))
    for fold in range(FOLDS):
        mine, others = slice(fold, None, FOLDS), slice(1 - fold, None, FOLDS)
        model[:, mine] = _predicted(_fitted(context[:, others], action[:, others], reward[:, others]), context[:, mine])
    return model


def _fitted(context: Floats, action: npt.NDArray[np.intp], reward: Floats) -> Floats:
    """Ridge regression of each action and replication on its own rows, f64[R, K, 6]."""
    features = _with_one(context)
    mine = (action[..., None] == np.arange(ACTIONS)).astype(np.float64).swapaxes(1, 2)
    outer = (features[..., :, None] * features[..., None, :]).reshape(*features.shape[:2], -1)
    size = features.shape[-1]
    gram = (mine @ outer).reshape(len(features), ACTIONS, size, size) + _RIDGE * np.eye(size)
    return np.linalg.solve(gram, (mine @ (features * reward[..., None]))[..., None])[..., 0]


def _predicted(coefficients: Floats, context: Floats) -> Floats:
    return np.asarray(_with_one(context) @ coefficients.swapaxes(1, 2))


def _with_one(context: Floats) -> Floats:
    return np.concatenate([context, np.ones((*context.shape[:-1], 1))], axis=-1)


def _scores(context: Floats, coefficients: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-(_with_one(context) @ coefficients.T))))


def _reward_mean(context: Floats, effect: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-(_with_one(context) @ _MEAN.T) - effect[..., None])))


def _effect(design: Design, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.normal(0, _USER_EFFECT, shape) if design.rows_of_a_unit > 1 else np.zeros(shape)


def _fixed(context: Floats) -> Floats:
    return _explored(_softmax(_SHARPNESS * _scores(context, _NOISY)))


def _target(design: Design, context: Floats) -> Floats:
    return _softmax(design.sharpness * _scores(context, design.scores))


def _explored(chance: Floats) -> Floats:
    return (1 - UNIFORM) * chance + UNIFORM / ACTIONS


def _softmax(scores: Floats) -> Floats:
    chance = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(chance / chance.sum(axis=-1, keepdims=True))


def _drawn(chance: Floats, uniform: Floats) -> npt.NDArray[np.intp]:
    return np.minimum((chance.cumsum(axis=-1) < uniform[..., None]).sum(axis=-1), ACTIONS - 1)


def _at(values: Floats, action: npt.NDArray[np.intp]) -> Floats:
    return np.take_along_axis(values, action[..., None], axis=-1)[..., 0]
