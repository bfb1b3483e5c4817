"""A policy tree in words: rules, JSON, and SQL. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bandits.personalise.encoding import Feature
from bandits.personalise.tree_shape import PolicyTree

__all__ = ["Rule", "as_json", "as_sql", "as_text", "rule_of", "rules"]


class Rule(NamedTuple):
    """`when`: conditions that all hold, none = always; `arm` as its place."""

    when: tuple[str, ...]
    arm: int
    leaf: int


class _Names(NamedTuple):
    features: Sequence[Feature]
    sql: bool


def rules(tree: PolicyTree, features: Sequence[Feature], *, sql: bool = False) -> list[Rule]:
    """The rules of a tree, left to right; exactly one holds for any row."""
    return list(_rules(tree, _Names(features, sql), 0, ()))


def rule_of(tree: PolicyTree, features: Sequence[Feature], x: np.ndarray) -> str:
    """The rule that holds for one row f64[d], as text without the arm."""
    node = 0
    while node < len(tree.feature):
        node = 2 * node + 1 + int(x[tree.feature[node]] > tree.threshold[node])
    return _text(next(rule.when for rule in rules(tree, features) if rule.leaf == node - len(tree.feature)))


def as_text(tree: PolicyTree, features: Sequence[Feature], arms: Sequence[str], notes: Sequence[str] = ()) -> str:
    """One line a rule; a leaf's note behind its arm."""
    lines = [(f"{_text(rule.when)}: {arms[rule.arm]}", notes[rule.leaf] if notes else "") for rule in rules(tree, features)]
    return "\n".join(f"{line}  ({note})" if note else line for line, note in lines)


def as_json(tree: PolicyTree, features: Sequence[Feature], arms: Sequence[str], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The three arrays with names of features and arms, and the rules; a node without a split has a null threshold."""
    told = [{"note": notes[rule.leaf]} if notes and notes[rule.leaf] else {} for rule in rules(tree, features)]
    return {
        "features": [feature._asdict() for feature in features],
        "arms": list(arms),
        "feature": tree.feature.tolist(),
        "threshold": [float(each) if np.isfinite(each) else None for each in tree.threshold],
        "arm": tree.arm.tolist(),
        "rules": [{"when": list(rule.when), "arm": arms[rule.arm], **note} for rule, note in zip(rules(tree, features), told, strict=True)],
    }


def as_sql(tree: PolicyTree, features: Sequence[Feature], arms: Sequence[str], notes: Sequence[str] = ()) -> str:
    """A CASE expression. Names are quoted; a missing number falls to its fill, a missing word has no level; notes are comments."""
    lines = []
    for rule in rules(tree, features, sql=True):
        note = f"  /* {notes[rule.leaf].replace('*/', '* /')} */" if notes and notes[rule.leaf] else ""
        lines.append(f"  WHEN {' AND '.join(rule.when) or 'TRUE'} THEN {_quoted(arms[rule.arm])}{note}")
    return "\n".join(["CASE", *lines, "END"])


def _rules(tree: PolicyTree, names: _Names, node: int, when: tuple[tuple[int, float, bool], ...]) -> Iterator[Rule]:
    inner = len(tree.feature)
    if node >= inner:
        yield Rule(_conditions(when, names), int(tree.arm[node - inner]), node - inner)
        return
    feature, threshold = int(tree.feature[node]), float(tree.threshold[node])
    if not np.isfinite(threshold):
        yield from _rules(tree, names, 2 * node + 1, when)
        return
    yield from _rules(tree, names, 2 * node + 1, (*when, (feature, threshold, True)))
    yield from _rules(tree, names, 2 * node + 2, (*when, (feature, threshold, False)))


def _conditions(when: Sequence[tuple[int, float, bool]], names: _Names) -> tuple[str, ...]:
    """Conditions in words, those on one number merged to the tightest."""
    tightest: dict[tuple[int, bool], float] = {}
    for feature, threshold, below in when:
        key = feature, below
        other = tightest.get(key, threshold)
        tightest[key] = min(other, threshold) if below else max(other, threshold)
    return tuple(_condition(names.features[feature], threshold, below, sql=names.sql) for (feature, below), threshold in tightest.items())


def _condition(feature: Feature, threshold: float, below: bool, *, sql: bool) -> str:
    if feature.kind == "number":
        name = f"COALESCE({_named(feature.name)}, {feature.fill:.17g})" if sql else feature.name
        return f"{name} {'<=' if below else '>'} {threshold:{'.17g' if sql else '.6g'}}"
    if feature.level is None:
        return f"{_named(feature.name) if sql else feature.name} is {'not ' if below else ''}{'null' if sql else 'missing'}"
    if sql:
        level = f"{_named(feature.name)} = {_quoted(feature.level)}"
        return f"({level}) IS NOT TRUE" if below else level
    return f"{feature.name} {'!=' if below else '='} {feature.level}"


def _text(when: Sequence[str]) -> str:
    return f"if {' and '.join(when)}" if when else "always"


def _named(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"
