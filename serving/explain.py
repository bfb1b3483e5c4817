"""Why a slate is as it is: by how much each feature moved the score of each of its items. Pure.

A feature's part of a score is what the score loses where the feature takes its default. It is asked of the policy itself, through the
program that decided: one more row a feature, in which only the slate's items are eligible. So it holds for every policy, compiles nothing,
and is exact for what it says; parts of features that act together need not add up.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from bandits.explained import rule
from bandits.features import Feature
from bandits.packed import RowLayout
from protos.policy_pb2 import Contribution, Explanation
from serving.decide import Asked, row_of
from serving.validate import Selection

__all__ = ["CONTRIBUTIONS", "explanations"]

#: Features that are named with a slot, the largest first.
CONTRIBUTIONS = 5
# Features that are asked for, in schema order: one batch of the largest bucket, with the row of the request itself.
_MOST_FEATURES = 255
_KILL_SWITCH = "kill_switch: the baseline decides"
_NO_KEY = bytes(8)


def explanations(asked: Asked, slate: Sequence[int], uncertainties: Sequence[float], *, width: int, slots: int) -> list[Explanation]:
    """The reasons of each slot of a slate, given as indices of its candidates."""
    selection = asked.selection
    layout = RowLayout(selection.rules.context_size, width, selection.rules.feature_size)
    eligible = [index in slate for index in range(len(selection.candidates.actions))]
    plain = selection._replace(eligible=eligible, slate_size=len(slate))
    changed = list(_variants(plain))[:_MOST_FEATURES]
    rows = b"".join([row_of(item, asked.policy, _NO_KEY, layout) for item in (plain, *(variant for _, variant in changed))])
    words = np.frombuffer(rows, np.uint32).reshape(-1, layout.words)
    outputs = asked.policy.decide_rows(words, layout=layout, slots=slots)
    scores = np.array([[_score_of(outputs.slates[row], outputs.mean[row], index) for index in slate] for row in range(len(words))])
    names = [name for name, _ in changed]
    rule_named = rule(asked.policy.manifest.spec, selection.rules.schema, np.frombuffer(selection.context, "<f4"))
    return [
        Explanation(
            action=selection.candidates.actions[index],
            score=float(scores[0, place]),
            uncertainty=uncertainties[place],
            contributions=_largest(names, scores[0, place] - scores[1:, place]),
            rule=_KILL_SWITCH if asked.kill_switch else rule_named,
        )
        for place, index in enumerate(slate)
    ]


def _variants(selection: Selection) -> Iterator[tuple[str, Selection]]:
    """The selection with each feature that is not at its default put there, and the feature's name."""
    rules, count = selection.rules, len(selection.candidates.actions)
    context = np.frombuffer(selection.context, "<f4")
    for name, changed in _each_at_default(rules.schema.context, context[None, :], rules.schema.encode_context({}).vector):
        yield name, selection._replace(context=changed.tobytes())
    features = np.frombuffer(selection.features, "<f4").reshape(count, rules.feature_size)
    for name, changed in _each_at_default(rules.schema.action, features, np.frombuffer(rules.default_features, "<f4")):
        yield name, selection._replace(features=changed.tobytes())


def _each_at_default(schema: Sequence[Feature], vectors: np.ndarray, default: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    start = 0
    for feature in schema:
        places = slice(start, start + feature.width)
        start += feature.width
        if (vectors[:, places] != default[places]).any():
            changed = vectors.copy()
            changed[:, places] = default[places]
            yield feature.name, changed


def _score_of(slate: np.ndarray, mean: np.ndarray, index: int) -> float:
    """The score of a candidate in a row's answer; NaN where a mask leaves it out."""
    found = np.flatnonzero(slate == index)
    return float(mean[found[0]]) if found.size else float("nan")


def _largest(names: Sequence[str], parts: np.ndarray) -> list[Contribution]:
    order = np.argsort(-np.abs(np.nan_to_num(parts)), kind="stable")[:CONTRIBUTIONS]
    return [Contribution(feature=names[at], value=float(parts[at])) for at in order if np.isfinite(parts[at]) and parts[at] != 0.0]
