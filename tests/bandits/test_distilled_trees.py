"""One tree for several outcomes and one over several policies: as good as all that there are, served as judged, and read in three forms."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
import typer.testing
import yaml

from bandits.__main__ import app
from bandits.config import parse_task
from bandits.explained import explained, rule
from bandits.personalise.boosting import binned, edges_of, leaves
from bandits.personalise.config import PersonaliseFile
from bandits.personalise.distilled import followed, leaf_lines
from bandits.personalise.guided import guided
from bandits.personalise.multi_task import multi_task, policy_of
from bandits.personalise.report import Personalised, personalised
from bandits.personalise.tree_shape import PolicyTree, arms_of_rows, leaf
from protos.task import load_task
from tests.bandits.experiments import made_up

RNG = np.random.default_rng(7)
N = 240
X = RNG.integers(0, 4, (N, 3)).astype(float)
BINS = binned(X, edges_of(X))


def lost(targets: np.ndarray, groups: np.ndarray) -> float:
    """Squares about the groups' means, each target by its variance."""
    scaled = targets / targets.std(axis=0)
    return float(sum(((scaled[groups == each] - scaled[groups == each].mean(axis=0)) ** 2).sum() for each in np.unique(groups)))


@pytest.mark.parametrize("least", [1, 40])
def test_the_first_split_is_the_one_that_tells_most_of_all_targets_together(least: int) -> None:
    targets = np.column_stack([X[:, 0] * 100.0, X[:, 1] + 3 * (X[:, 2] > 1), RNG.normal(size=N), X[:, 2]])
    found = multi_task(BINS, targets, depth=1, least=least)
    splits = [(f, edge) for f in range(3) for edge in BINS.edges[f] if least <= (X[:, f] <= edge).sum() <= N - least]
    best = min(splits, key=lambda split: lost(targets, X[:, split[0]] <= split[1]))
    assert (found.feature[0], found.threshold[0]) == best
    # Units of an outcome change nothing.
    again = multi_task(BINS, targets * [1e-6, 1.0, 1.0, 1e6], depth=1, least=least)
    assert (again.feature[0], again.threshold[0]) == best


def test_leaves_hold_the_means_of_their_rows_and_weights_choose_the_arms() -> None:
    targets = np.column_stack([X[:, 0] > 1, X[:, 0] <= 1, X[:, 1], 3 - X[:, 1]]).astype(float)
    tree = multi_task(BINS, targets, depth=2, least=5)
    at = leaves(tree.feature, tree.threshold, X)
    for each in np.unique(at):
        np.testing.assert_allclose(tree.value[each], targets[at == each].mean(axis=0))
    # Two outcomes of two arms: the weight of the second turns the policy round; a cost may settle it.
    first, second = policy_of(tree, np.array([1.0, 0.0]), np.zeros(2)), policy_of(tree, np.array([0.0, 1.0]), np.zeros(2))
    np.testing.assert_array_equal(arms_of_rows(first, X), np.where(X[:, 0] > 1, 0, 1))
    assert arms_of_rows(second, X)[X[:, 1] == 3].max() == 0
    assert set(policy_of(tree, np.array([1.0, 1.0]), np.array([99.0, 0.0])).arm) == {1}


def test_a_constant_target_and_too_few_rows_leave_one_leaf() -> None:
    assert not np.isfinite(multi_task(BINS, np.ones((N, 2)), depth=2, least=1).threshold).any()
    assert not np.isfinite(multi_task(BINS, X, depth=2, least=N).threshold).any()


def test_a_guide_over_three_policies_is_worth_the_best_split_between_any_two_of_them() -> None:
    scores = RNG.normal(size=(N, 3)) + np.stack([X[:, 0], 3 - X[:, 0], np.full(N, 1.4)], axis=1)
    by_second = PolicyTree(np.array([1], np.int32), np.array([1.5]), np.array([0, 2], np.int32))
    offered = [leaf(0, 0), leaf(1, 0), by_second]
    found = guided(BINS, X, scores, offered, depth=1, least=1)
    worth = np.column_stack([scores[np.arange(N), arms_of_rows(each, X)] for each in offered])
    best = max(
        worth[X[:, f] <= edge, one].sum() + worth[X[:, f] > edge, other].sum()
        for f in range(3)
        for edge in BINS.edges[f]
        for one, other in itertools.product(range(3), repeat=2)
    )
    arms = arms_of_rows(found.policy, X)
    assert scores[np.arange(N), arms].sum() == pytest.approx(best)
    chosen = arms_of_rows(found.guide, X)
    np.testing.assert_array_equal(arms, [arms_of_rows(offered[policy], row[None])[0] for policy, row in zip(chosen, X, strict=True)])


FILE = PersonaliseFile(data="", treatment="arm", outcomes={"y": 1.0, "z": 0.2}, covariates=("age", "place"), distil=True, depth=2)


@pytest.fixture(scope="module")
def found() -> Personalised:
    return personalised(made_up(800), FILE)


def test_what_is_said_of_a_leaf_is_measured_on_the_rows_that_judge(found: Personalised) -> None:
    assert found.distilled is not None
    data, judging, tree = found.data, found.judging, found.distilled.policy
    at, best = leaves(tree.feature, tree.threshold, data.x[data.test]), judging.best
    for line in leaf_lines(tree, data, judging):
        rows = at == line["leaf"]
        arm = data.arms.index(line["arm"])
        gain = judging.outcomes["z"][rows, arm] - judging.outcomes["z"][rows, best]
        assert line["rows"] == rows.sum() and line["effects"]["z"]["value"] == pytest.approx(gain.mean())
    assert set(itertools.chain.from_iterable(followed(found.distilled, data.x))) <= set(found.distilled.policies)


@pytest.mark.parametrize("policy", ["multi_task", "guided"])
def test_the_commands_serve_and_explain_them_with_what_each_leaf_gains(tmp_path: Path, found: Personalised, policy: str) -> None:
    pyarrow.csv.write_csv(made_up(800), tmp_path / "data.csv")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(FILE.model_dump(mode="json", exclude_defaults=True) | {"data": "data.csv"}))
    written = tmp_path / "calls.yaml"
    runner = typer.testing.CliRunner()
    result = runner.invoke(app, ["personalise", str(tmp_path / "p.yaml"), "--json", "--task", str(written), "--policy", policy])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)[policy]
    assert report["gain"] > 0.2 and report["leaves"][0]["effects"]["y"]["standard_error"] >= 0.0
    served = parse_task(load_task(written))
    told = {form: explained(served.spec, served.schema, form=form) for form in ("text", "json", "sql")}
    assert "rows judged" in told["text"] and "/* " in told["sql"] and "note" in json.loads(told["json"])["rules"][0]
    assert ("; by " in told["text"]) == (policy == "guided")
    assert found.distilled is not None
    tree = found.distilled.policy if policy == "multi_task" else found.distilled.guided.policy
    table = made_up(800)
    for age, place, arm in list(zip(table["age"].to_pylist(), table["place"].to_pylist(), arms_of_rows(tree, found.data.x), strict=True))[
        :40
    ]:
        named = rule(served.spec, served.schema, served.schema.encode_context({"age": age, "place": place}).vector)
        line = next(each for each in told["text"].splitlines() if each.startswith(named + ": "))
        assert line.removeprefix(named + ": ").split("  (")[0] == found.data.arms[arm]


def test_a_distilled_policy_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    pyarrow.csv.write_csv(made_up(200), tmp_path / "data.csv")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"data": "data.csv", "treatment": "arm", "outcomes": "y", "covariates": ["age"]}))
    asked = ["personalise", str(tmp_path / "p.yaml"), "--task", str(tmp_path / "t.yaml"), "--policy", "guided"]
    result = typer.testing.CliRunner().invoke(app, asked)
    assert result.exit_code == 2 and "distil: true" in result.stderr
