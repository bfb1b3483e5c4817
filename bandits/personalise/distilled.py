"""Several outcomes in one tree, and several trees in one: what a black box of each outcome says, told so that people can read it. Pure.

The multi-task tree knows nothing of weights (`multi_task`). The guidance tree chooses between it, the trees of each outcome, the trees of
the weighted outcomes, and each arm for everybody (`guided`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bandits.personalise.black_box import LEARNERS, BlackBox, black_box
from bandits.personalise.boosting import Binned, leaves
from bandits.personalise.experiment import Logged
from bandits.personalise.guided import Guided, guided
from bandits.personalise.judge import Judging, mean_and_error
from bandits.personalise.learners import Learner, Rows
from bandits.personalise.multi_task import MultiTask, multi_task, policy_of
from bandits.personalise.rules import rules
from bandits.personalise.tree import grown
from bandits.personalise.tree_shape import PolicyTree, arms_of_rows, leaf

__all__ = ["Distilled", "distilled", "followed", "leaf_lines", "leaf_notes"]

# Depth of the guide, and of the trees of single outcomes among which it chooses.
_GUIDE, _OUTCOME_TREE = 2, 2


class Distilled(NamedTuple):
    """`multi_task` and the `policy` that it is by the file's weights; `guided` by `policies`, by name; `outcomes`: what the targets are."""

    multi_task: MultiTask
    policy: PolicyTree
    guided: Guided
    policies: Mapping[str, PolicyTree]
    outcomes: tuple[str, ...]


def distilled(
    data: Logged,
    learned: BlackBox,
    trees: Sequence[PolicyTree],
    bins: Binned,
    *,
    depth: int,
    least: int,
    learners: Mapping[str, Learner] = LEARNERS,
) -> Distilled:
    """Learns a black box for each outcome from the rows that train, and both trees from what they say; `learned` is of the utility."""
    x, said = data.x[data.train], _said(data, learned, learners)
    one = multi_task(bins, np.column_stack(list(said.values())), depth=depth, least=least)
    policy = policy_of(one, np.array([data.weights[name] for name in said]), data.costs)
    policies = {f"{arm} for everybody": leaf(at, 0) for at, arm in enumerate(data.arms)}
    policies |= {f"tree of depth {at + 1}": tree for at, tree in enumerate(trees)}
    for name, values in said.items() if len(said) > 1 else ():
        score = np.sign(data.weights[name]) * values
        policies[f"tree of {name}"] = grown(bins, score, depth=_OUTCOME_TREE, least=least)
    policies["multi-task tree"] = policy
    guide = guided(bins, x, learned.inside - data.costs, list(policies.values()), depth=_GUIDE, least=least)
    return Distilled(one, policy, guide, policies, tuple(said))


def _said(data: Logged, learned: BlackBox, learners: Mapping[str, Learner]) -> dict[str, np.ndarray]:
    """Of each outcome what its black box says of the rows that train, f64[m, K]."""
    if len(data.outcomes) == 1:
        (name,) = data.outcomes
        return {name: learned.inside / data.weights[name]}
    every = Rows(data.x, data.utility, data.arm, data.propensity, len(data.arms)).at(data.train)
    return {name: black_box(every._replace(y=values[data.train]), learners=learners).inside for name, values in data.outcomes.items()}


def leaf_lines(tree: PolicyTree, data: Logged, judging: Judging) -> list[dict[str, Any]]:
    """Of each rule, its arm, its rows in the half that judges, and what the arm does there to each outcome beside the best uniform arm.

    By doubly robust scores, before costs; null where fewer than two rows of that half fall under the rule.
    """
    x = data.x[data.test]
    at, best = leaves(tree.feature, tree.threshold, x), judging.best
    found = []
    for rule in rules(tree, data.encoding.features):
        rows = np.flatnonzero(at == rule.leaf)
        each = {name: _effect(judging, name, rows, rule.arm, best) for name in data.outcomes}
        line = {"when": list(rule.when), "arm": data.arms[rule.arm], "rows": len(rows), "over": data.arms[best], "effects": each}
        found.append({"leaf": rule.leaf, **line})
    return found


def _effect(judging: Judging, name: str, rows: np.ndarray, arm: int, best: int) -> dict[str, float] | None:
    if len(rows) < 2:
        return None
    gain = judging.outcomes[name][rows, arm] - judging.outcomes[name][rows, best]
    found = mean_and_error(gain, None if judging.cluster is None else judging.cluster[rows])
    return {"value": found.value, "standard_error": found.error}


def leaf_notes(tree: PolicyTree, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is said of each leaf beside its rule, "" where nothing is; a note a leaf of `tree`."""
    notes = [""] * len(tree.arm)
    for line in lines:
        if line["arm"] == line["over"]:
            notes[line["leaf"]] = f"the best arm for everybody; {line['rows']} rows judged"
            continue
        told = [f"{name} {each['value']:+.4g} ({each['standard_error']:.2g})" for name, each in line["effects"].items() if each]
        notes[line["leaf"]] = f"over {line['over']}: {', '.join(told)}; {line['rows']} rows judged" if told else ""
    return notes


def followed(found: Distilled, x: np.ndarray) -> list[tuple[str, ...]]:
    """The policies that the guide follows in each leaf of the guided tree, for rows f64[n, d]."""
    chosen = arms_of_rows(found.guided.guide, x)
    at, names = leaves(found.guided.policy.feature, found.guided.policy.threshold, x), list(found.policies)
    return [tuple(names[place] for place in np.unique(chosen[at == each])) for each in range(len(found.guided.policy.arm))]
