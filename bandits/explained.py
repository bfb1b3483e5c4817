"""A policy in words: what `bandits explain` prints, and the rule that a decision's explanation names. Pure."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bandits.catalog import PolicySpec
from bandits.errors import PolicyError
from bandits.features import Schema
from bandits.personalise.encoding import Feature
from bandits.personalise.rules import as_json, as_sql, as_text, rule_of
from bandits.personalise.tree_shape import PolicyTree

__all__ = ["context_features", "explained", "rule"]


def rule(spec: PolicySpec, schema: Schema, context: np.ndarray) -> str:
    """The rule by which a policy tree decides in a context f32[d]; "" for any other policy."""
    tree = _tree(spec)
    return "" if tree is None else rule_of(tree, context_features(schema), np.asarray(context, np.float64))


def explained(spec: PolicySpec, schema: Schema, *, form: str) -> str:
    """A policy tree or a linear model of effects as text, JSON or an SQL CASE.

    Raises PolicyError for a policy that has no such form.
    """
    tree, features, settings = _tree(spec), context_features(schema), json.loads(spec.settings)
    if tree is not None:
        if form == "json":
            told = as_json(tree, features, schema.actions, settings.get("note", ()))
            return json.dumps({"policy": spec.name, "floor": spec.floor, **told}, indent=1)
        return (as_sql if form == "sql" else as_text)(tree, features, schema.actions, settings.get("note", ()))
    if spec.name != "linear_hte" or form == "sql":
        raise PolicyError(f"policy.name: {spec.name!r} has no {form} form; `policy_tree` has all, `linear_hte` has text and json")
    if form == "json":
        return json.dumps({"policy": spec.name, "floor": spec.floor, "features": [each.title for each in features], **settings}, indent=1)
    return "\n".join(_line(action, at, settings, features) for at, action in enumerate(schema.actions))


def context_features(schema: Schema) -> list[Feature]:
    """What stands at each place of the encoded context."""
    found: list[Feature] = []
    for feature in schema.context:
        if feature.type == "category":
            words = feature.vocabulary or tuple(f"bucket {place}" for place in range(feature.buckets or 0))
            found += [Feature(feature.name, "level", word) for word in words]
            found += [Feature(feature.name, "level", "(any other)")] if feature.vocabulary else []
            continue
        fill = float(feature.default) if isinstance(feature.default, int | float) else 0.0
        names = [feature.name] if feature.width == 1 else [f"{feature.name}[{place}]" for place in range(feature.width)]
        found += [Feature(name, "number", fill=fill) for name in names]
    return found


def _tree(spec: PolicySpec) -> PolicyTree | None:
    settings = json.loads(spec.settings)
    if spec.name != "policy_tree" or not settings["action"]:
        return None
    bounds = np.array([np.inf if each is None else each for each in settings["threshold"]])
    return PolicyTree(np.array(settings["feature"], np.int32), bounds, np.array(settings["action"], np.int32))


def _line(action: str, at: int, settings: Mapping[str, Any], features: list[Feature]) -> str:
    weights = settings["weight"][at] if settings["weight"] else []
    parts = [f"{weight:+.4g} x ({feature.title})" for weight, feature in zip(weights, features, strict=False) if weight]
    return f"{action}: " + " ".join([f"{settings['intercept'][at]:.4g}" if settings["intercept"] else "0", *parts])
