"""A learned policy as the file of a task: features as they are encoded for serving, and the policy's settings. Pure.

The columns of the matrix that was learned from become places of the encoded context: a number keeps its place, with its fill as default; a
factor becomes a category whose vocabulary is the levels that were told apart; a missing value that tells something is a feature of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bandits.errors import ExperimentError
from bandits.personalise.black_box import BlackBox
from bandits.personalise.encoding import Encoding
from bandits.personalise.experiment import Logged
from bandits.personalise.learners import Boosted, ByArm, Model, Ridge
from bandits.personalise.tree_shape import PolicyTree

__all__ = ["Places", "black_box_settings", "places_of", "task_of", "tree_settings"]


class Places(NamedTuple):
    """`context`: the features as a task's file declares them; `place` i[d]: where each column of the matrix stands; `size` of it all."""

    context: list[dict[str, Any]]
    place: list[int]
    size: int


def places_of(encoding: Encoding) -> Places:
    """How the features of an encoding are declared in a task's file."""
    context: list[dict[str, Any]] = []
    place, size, last = [], 0, ""
    for feature in encoding.features:
        if feature.kind == "level" and feature.level is not None and last == feature.name:
            # One more word of the category that the last feature began; its place for all other words moves on.
            context[-1]["vocabulary"].append(feature.level)
            place.append(size - 1)
            size += 1
            continue
        last = feature.name if feature.level is not None else ""
        place.append(size)
        if feature.kind == "number":
            context.append({"name": feature.name, "type": "float", "default": feature.fill})
        elif feature.level is None:
            context.append({"name": feature.title, "type": "bool"})
        else:
            context.append({"name": feature.name, "type": "category", "vocabulary": [feature.level]})
            size += 1
        size += 1
    return Places(context, place, size)


def task_of(name: str, data: Logged, policy: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The file of a task that serves this policy."""
    context = places_of(data.encoding).context
    return {"task": name, "features": {"context": context, "actions": list(data.arms)}, "policy": {"name": policy, "settings": settings}}


def tree_settings(tree: PolicyTree, places: Places, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of `policy_tree`; `notes` of its leaves."""
    return {
        "feature": [places.place[at] if np.isfinite(bound) else 0 for at, bound in zip(tree.feature, tree.threshold, strict=True)],
        "threshold": _bounds(tree.threshold),
        "action": tree.arm.tolist(),
        **({"note": list(notes)} if any(notes) else {}),
    }


def black_box_settings(box: BlackBox, data: Logged, draws: Sequence[Mapping[str, Model]] = ()) -> tuple[str, dict[str, Any]]:
    """Name and settings of the policy that a black box is: `linear_hte` where no tree has a say in it, else `boosted_hte`.

    `draws`: models of other samples of the rows, to explore by. What all arms share is left out: a score is the value of an arm up to
    that. Raises ExperimentError for a model that is neither a line nor boosted trees.
    """
    settings = _model_settings(box.models, box.weights, data)
    if draws:
        return "boosted_hte", settings | {"draws": [_model_settings(models, box.weights, data) for models in draws]}
    return ("boosted_hte" if "action" in settings else "linear_hte"), settings


def _model_settings(models: Mapping[str, Model], weights: Mapping[str, float], data: Logged) -> dict[str, Any]:
    places = places_of(data.encoding)
    intercept, weight = -data.costs.copy(), np.zeros((len(data.arms), places.size))
    trees: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
    for name, share in weights.items():
        for arm, own in enumerate(_own(models[name], name) if share > 0.0 else ()):
            if isinstance(own, Ridge):
                intercept[arm] += share * own.model.intercept
                weight[arm, places.place] += share * own.model.weight
                continue
            intercept[arm] += share * own.trees.base
            trees += [
                (arm, *_deepened(f, t, share * v)) for f, t, v in zip(own.trees.feature, own.trees.threshold, own.trees.value, strict=True)
            ]
    settings: dict[str, Any] = {"intercept": intercept.tolist(), "weight": weight.tolist()}
    if not trees:
        return settings
    inner = [np.where(np.isfinite(bound), np.array(places.place)[feature], 0).tolist() for _, feature, bound, _ in trees]
    return settings | {
        "action": [arm for arm, _, _, _ in trees],
        "feature": inner,
        "threshold": [_bounds(bound) for _, _, bound, _ in trees],
        "value": [value.tolist() for _, _, _, value in trees],
    }


def _own(model: Model, name: str) -> list[Ridge | Boosted]:
    own = model.own if isinstance(model, ByArm) else ()
    found = [each for each in own if isinstance(each, Ridge | Boosted)]
    if not own or len(found) < len(own):
        raise ExperimentError(f"the model {name!r} is neither a line nor boosted trees; it can be judged, but not served")
    return found


def _deepened(
    feature: np.ndarray, threshold: np.ndarray, value: np.ndarray, *, depth: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same tree with levels below it at which every row goes left, so that all trees have one shape."""
    while len(value) < 2**depth:
        feature, threshold = np.append(feature, np.zeros(len(value), int)), np.append(threshold, np.full(len(value), np.inf))
        value = np.repeat(value, 2)
    return feature, threshold, value


def _bounds(threshold: np.ndarray) -> list[float | None]:
    return [float(each) if np.isfinite(each) else None for each in threshold]
