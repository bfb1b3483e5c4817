"""What `bandits personalise` prints: the black box and trees learned on one half of an experiment and judged on the other. Pure."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import scipy.special

from bandits.personalise.black_box import BlackBox, black_box, drawn
from bandits.personalise.boosting import binned, edges_of
from bandits.personalise.config import PersonaliseFile
from bandits.personalise.constrained import check_constraints, constrained_report
from bandits.personalise.distilled import Distilled, distilled, leaf_lines
from bandits.personalise.experiment import Logged, logged
from bandits.personalise.judge import Gain, Judged, Judging, judged, mean_and_error
from bandits.personalise.learners import Model, Rows, doubly_robust
from bandits.personalise.lessons import Lesson, lesson
from bandits.personalise.own import learners_of
from bandits.personalise.rules import as_json, as_sql, as_text
from bandits.personalise.tree import grown
from bandits.personalise.tree_shape import PolicyTree, arms_of_rows

__all__ = ["Personalised", "models_to_draw", "personalise_report", "personalised"]


class Personalised(NamedTuple):
    """Policies learned on the half that trains, and the other half's scores. `trees` by depth, 1 first, of the `lesson`."""

    data: Logged
    black_box: BlackBox
    lesson: Lesson
    trees: tuple[PolicyTree, ...]
    judging: Judging
    distilled: Distilled | None = None


def personalised(table: pa.Table, file: PersonaliseFile, *, said: Callable[[str], None] = lambda step: None) -> Personalised:
    """Learns and scores. Raises ExperimentError where the experiment allows neither."""
    data = logged(table, file)
    check_constraints(data, file)
    rows = Rows(data.x, data.utility, data.arm, data.propensity, len(data.arms))
    learners = learners_of(file)
    learned = black_box(rows.at(data.train), learners=learners, said=said)
    least = file.least_leaf or max(20, len(data.train) // 100)
    bins = binned(data.x[data.train], edges_of(data.x[data.train]))
    taught = lesson(learned, rows.at(data.train), bins, data.costs, depth=file.depth, least=least)
    trees = tuple(grown(bins, taught.taught, depth=depth, least=least) for depth in range(1, file.depth + 1))
    small = distilled(data, learned, trees, bins, depth=file.depth, least=least, learners=learners) if file.distil else None
    return Personalised(data, learned, taught, trees, _judging(data, rows, learned), small)


def models_to_draw(found: Personalised, file: PersonaliseFile) -> list[dict[str, Model]]:
    """Models of random halves of the rows that train, as many as the file asks for."""
    data = found.data
    rows = Rows(data.x, data.utility, data.arm, data.propensity, len(data.arms)).at(data.train)
    rng = np.random.default_rng([file.seed, 1])
    return drawn(rows, found.black_box, draws=file.draws, rng=rng, learners=learners_of(file))


def personalise_report(found: Personalised, file: PersonaliseFile) -> dict[str, Any]:
    """Values, gains over the best uniform arm with paired errors, and the trees as text, JSON and SQL."""
    data, judging = found.data, found.judging
    x = data.x[data.test]
    box = judged(judging, np.argmax(found.black_box.model(x) - data.costs, axis=1))
    trees = [(tree, judged(judging, arms_of_rows(tree, x))) for tree in found.trees]
    return {
        "data": file.data,
        "treatment": file.treatment,
        "arms": list(data.arms),
        "outcomes": dict(data.weights),
        "costs": dict(zip(data.arms, data.costs.tolist(), strict=True)),
        "covariates": list(file.covariates),
        "left_out": list(data.left_out),
        "assignment": dict(data.assignment),
        "seed": file.seed,
        "rows": {**data.sample.account, "train": len(data.train), "test": len(data.test)},
        "best_uniform_arm": data.arms[judging.best],
        "uniform": [_uniform(judging, arm, name) for arm, name in enumerate(data.arms)],
        "black_box": {**_line(data, box), "learners": {name: round(weight, 6) for name, weight in found.black_box.weights.items()}},
        "taught": {"share_of_scores": found.lesson.share, "worth": {f"{each:g}": value for each, value in found.lesson.worth.items()}},
        "trees": [
            {"depth": at + 1, **_line(data, each), **_kept(each, box), **_words(data, judging, tree)}
            for at, (tree, each) in enumerate(trees)
        ],
        **_distilled_lines(found, box),
        **(constrained_report(data, file, judging) if file.guardrails or file.pareto or file.budget is not None else {}),
        "verdict": _verdict(data.arms[judging.best], box, [each for _, each in trees]),
        "doubts": list(data.doubts),
    }


def _judging(data: Logged, rows: Rows, learned: BlackBox) -> Judging:
    """Scores of the judging half by outcome models of the other; each outcome has its own."""
    learner = learned.outcome_model
    scores = {}
    for name, values in data.outcomes.items():
        of_one = rows._replace(y=values)
        scores[name] = doubly_robust(of_one.at(data.test), learner(of_one.at(data.train))(data.x[data.test]))
    total = np.sum([data.weights[name] * each for name, each in scores.items()], axis=0) - data.costs
    return Judging(total, scores, None if data.cluster is None else data.cluster[data.test])


def _uniform(judging: Judging, arm: int, name: str) -> dict[str, Any]:
    value = mean_and_error(judging.scores[:, arm], judging.cluster)
    outcomes = {outcome: _gain(mean_and_error(scores[:, arm], judging.cluster)) for outcome, scores in judging.outcomes.items()}
    return {"arm": name, "value": value.value, "standard_error": value.error, "outcomes": outcomes}


def _line(data: Logged, each: Judged) -> dict[str, Any]:
    return {
        "value": each.value.value,
        "standard_error": each.value.error,
        "gain": each.gain.value,
        "gain_standard_error": each.gain.error,
        "gain_interval": list(each.gain.interval),
        "shares": dict(zip(data.arms, each.shares.tolist(), strict=True)),
        "outcomes": {name: _gain(gain) for name, gain in each.outcomes.items()},
    }


def _kept(tree: Judged, box: Judged) -> dict[str, Any]:
    """The share of the black box's gain that a tree keeps; null where the black box gains less than two errors."""
    clear = box.gain.error > 0.0 and box.gain.value > 2 * box.gain.error
    return {"share_of_black_box_gain": tree.gain.value / box.gain.value if clear else None}


def _distilled_lines(found: Personalised, box: Judged) -> dict[str, Any]:
    if found.distilled is None:
        return {}
    data, judging, x = found.data, found.judging, found.data.x[found.data.test]
    lines = {}
    for name, tree in (("multi_task", found.distilled.policy), ("guided", found.distilled.guided.policy)):
        each = judged(judging, arms_of_rows(tree, x))
        lines[name] = {**_line(data, each), **_kept(each, box), **_words(data, judging, tree)}
    guide = found.distilled.guided.guide
    lines["guided"]["guide"] = as_text(guide, data.encoding.features, list(found.distilled.policies))
    return lines


def _words(data: Logged, judging: Judging, tree: PolicyTree) -> dict[str, Any]:
    features = data.encoding.features
    return {
        "leaves": leaf_lines(tree, data, judging),
        "text": as_text(tree, features, data.arms),
        "sql": as_sql(tree, features, data.arms),
        "tree": as_json(tree, features, data.arms),
    }


def _gain(gain: Gain) -> dict[str, float]:
    return {"value": gain.value, "standard_error": gain.error}


def _verdict(best: str, box: Judged, trees: list[Judged]) -> str:
    names = ["the black box", *(f"the tree of depth {depth + 1}" for depth in range(len(trees)))]
    # Bonferroni: that one of several policies seems better is no news.
    z = float(scipy.special.ndtri(1.0 - 0.025 / len(names)))
    better = [name for name, each in zip(names, (box, *trees), strict=True) if each.gain.value > z * each.gain.error]
    if better:
        said = f"{', '.join(better)} gain more than sampling error (95 % over all policies)"
        return f"personalisation beats the best uniform arm, {best!r}: {said}"
    return (
        f"personalisation does not beat the best uniform arm, {best!r}: the black box gains {box.gain.value:.4g} with a standard error of "
        f"{box.gain.error:.4g}; give everybody {best!r}"
    )
