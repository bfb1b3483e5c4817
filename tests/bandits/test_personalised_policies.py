"""What `bandits personalise` learns is what is served: the same arms, exact propensities, and a rule that can be named."""

import json
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
import scipy.stats
import typer.testing
import yaml

from bandits.__main__ import app
from bandits.catalog import PolicySpec, build
from bandits.config import TaskPolicy, parse_task
from bandits.errors import PolicyError
from bandits.explained import explained, rule
from bandits.keys import decision_id, draw_key
from bandits.personalise.black_box import black_box, combined, drawn
from bandits.personalise.config import PersonaliseFile
from bandits.personalise.learners import Rows
from bandits.personalise.report import Personalised, personalised
from bandits.personalise.served import black_box_settings, places_of, task_of, tree_settings
from bandits.personalise.tree_shape import arms_of_rows
from bandits.policy import Dims
from bandits.programs import run_decide, run_prepare
from bandits.requests import Requests
from protos.errors import ConfigError
from protos.task import TaskFile
from tests.bandits.experiments import made_up

FILE = PersonaliseFile(data="", treatment="arm", outcomes={"y": 1.0}, covariates=("place", "age"), costs={"call": 0.1})


@pytest.fixture(scope="module")
def found() -> Personalised:
    return personalised(made_up(1_500), FILE)


def task(found: Personalised, policy: str) -> TaskPolicy:
    if policy == "tree":
        name, settings = "policy_tree", tree_settings(found.trees[-1], places_of(found.data.encoding))
    else:
        name, settings = black_box_settings(found.black_box, found.data)
    sections = json.loads(json.dumps(task_of("t", found.data, name, settings)))
    return parse_task(TaskFile(name=sections.pop("task"), tenant="", sections=sections, digest="d"))


def contexts(task: TaskPolicy, rows: int) -> np.ndarray:
    table = made_up(1_500)
    named = zip(table["age"].to_pylist()[:rows], table["place"].to_pylist()[:rows], strict=True)
    return np.stack([task.schema.encode_context({"age": age, "place": place}).vector for age, place in named])


def probabilities(task: TaskPolicy, context: np.ndarray) -> np.ndarray:
    """The first slot's distribution by drawing one candidate at a time: P(action) of each row, by its numerators."""
    from bandits.programs import run_numerators

    n, k = len(context), len(task.schema.actions)
    requests = Requests.of(context, np.arange(k), slots=1, draw_key=np.zeros((n, 2), np.uint32))
    params = run_prepare(task.spec, build(task.spec).init())
    slates = [run_numerators(task.spec, params, requests, np.full((n, 1), arm, np.int32)).numerators[:, 0] for arm in range(k)]
    return np.stack(slates, axis=1) / 2**31


def test_a_served_tree_plays_the_arms_that_were_judged(found: Personalised) -> None:
    served = task(found, "tree")
    p = probabilities(served, contexts(served, 200))
    np.testing.assert_array_equal(p.argmax(axis=1), arms_of_rows(found.trees[-1], found.data.x[:200]))
    np.testing.assert_allclose(p.max(axis=1), 1.0 - 0.02 * 2 / 3, atol=1e-9)


def test_a_served_black_box_plays_the_arms_that_were_judged(found: Personalised) -> None:
    served = task(found, "black box")
    assert served.spec.name == "boosted_hte"
    wanted = np.argmax(found.black_box.model(found.data.x[:200]) - found.data.costs, axis=1)
    # A number that lies within float32 of a threshold may fall on its other side; none does here.
    np.testing.assert_array_equal(probabilities(served, contexts(served, 200)).argmax(axis=1), wanted)


def test_the_rule_that_decides_is_named_and_explained_in_three_forms(found: Personalised) -> None:
    served = task(found, "tree")
    context = contexts(served, 50)
    lines = dict(line.rsplit(": ", 1) for line in explained(served.spec, served.schema, form="text").splitlines())
    arms = [served.schema.actions[arm] for arm in arms_of_rows(found.trees[-1], found.data.x[:50])]
    assert [lines[rule(served.spec, served.schema, row)] for row in context] == arms
    assert explained(served.spec, served.schema, form="sql").startswith("CASE\n  WHEN ")
    assert json.loads(explained(served.spec, served.schema, form="json"))["floor"] == 0.02
    box = task(found, "black box")
    assert rule(box.spec, box.schema, context[0]) == ""
    with pytest.raises(PolicyError, match="no sql form"):
        explained(box.spec, box.schema, form="sql")


def test_the_commands_write_a_task_and_explain_it(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        result = typer.testing.CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    pyarrow.csv.write_csv(made_up(800), tmp_path / "data.csv")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"data": "data.csv", "treatment": "arm", "outcomes": "y", "covariates": ["age"]}))
    written = str(tmp_path / "calls.yaml")
    assert "personalisation beats" in " ".join(run("personalise", str(tmp_path / "p.yaml"), "--task", written).split())
    assert run("explain", written).startswith("if age <= ")
    assert "THEN 'letter'" in run("explain", written, "--format", "sql")
    assert json.loads(run("explain", written, "--format", "json"))["arms"] == ["call", "control", "letter"]


def test_linear_effects_with_covariances_are_played_by_thompson_sampling() -> None:
    """Of two actions, P(first wins) = Phi(difference of means / root of the summed variances)."""
    settings = {
        "intercept": [0.2, 0.0], "weight": [[1.0], [0.5]],
        "covariance": [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]]],
    }  # fmt: skip
    spec = PolicySpec.of("linear_hte", settings, floor=0.0, dims=Dims(actions=2, context=1, features=0))
    served = parse_task(
        TaskFile(
            name="t", tenant="", digest="d",
            sections={
                "features": {"context": [{"name": "x"}], "actions": ["a", "b"]},
                "policy": {"name": "linear_hte", "settings": settings, "floor": 1e-9},
            },
        )
    )  # fmt: skip
    x = 0.7
    gap, variance = 0.2 + 0.5 * x, (0.3 + 0.2 * x + 0.2 * x * x) + (0.1 + 0.4 * x * x)
    p = probabilities(served, np.array([[x]], np.float32))[0, 0]
    assert p == pytest.approx(scipy.stats.norm.cdf(gap / np.sqrt(variance)), abs=1e-5) and spec.dims.actions == 2


BAD = [
    ("policy_tree", {"action": [0, 1, 0], "feature": [0, 0], "threshold": [0.0, 0.0]}, "complete tree"),
    ("policy_tree", {"action": [0, 1], "feature": [], "threshold": []}, "need 1 entries"),
    ("policy_tree", {"action": [0, 9], "feature": [0], "threshold": [0.0]}, "9 is no place in the action table"),
    ("policy_tree", {"action": [0, 1], "feature": [7], "threshold": [0.0]}, "7 is no place in the encoded context"),
    ("linear_hte", {"intercept": [1.0]}, "intercept: of shape 1"),
    ("linear_hte", {"weight": [[1.0], [1.0]]}, "weight: of shape"),
    ("boosted_hte", {"action": [0], "feature": [[0]], "threshold": [[0.0]], "value": [[0.0, 1.0, 2.0]]}, "one complete shape"),
    ("boosted_hte", {"action": [5], "feature": [[0]], "threshold": [[0.0]], "value": [[0.0, 1.0]]}, "action: 5 is no place"),
]


@pytest.mark.parametrize(("name", "settings", "says"), BAD)
def test_settings_that_do_not_fit_are_refused(name: str, settings: dict[str, object], says: str) -> None:
    with pytest.raises((ConfigError, PolicyError), match=says):
        build(PolicySpec.of(name, settings, floor=0.1, dims=Dims(actions=2, context=2, features=0)))


@pytest.mark.slow
def test_a_million_draws_of_a_tree_follow_the_logged_propensities(found: Personalised) -> None:
    """Ids fixed; chi-square over rows' leaves and arms, false alarm 1e-6. It would see a floor that is off by 2 %."""
    served = task(found, "tree")
    context, n, k = contexts(served, 4), 250_000, 3
    params = run_prepare(served.spec, build(served.spec).init())
    for at, row in enumerate(context):
        names = (decision_id(tenant="t", task="t", request_id=f"{at}-{i}", arm="champion", snapshot_digest="0") for i in range(n))
        keys = np.stack([draw_key(name) for name in names])
        drawn = run_decide(served.spec, params, Requests.of(np.tile(row, (n, 1)), np.arange(k), slots=1, draw_key=keys), slots=1)
        counts = np.bincount(drawn.slates[:, 0], minlength=k)
        p = probabilities(served, row[None])[0]
        assert scipy.stats.chisquare(counts, n * p).pvalue > 1e-6


def test_draws_are_played_by_how_many_of_them_an_arm_is_best_to(found: Personalised) -> None:
    # Of few rows, so that there is something to explore.
    rows = rows_of(found).at(np.arange(250))
    box, costs = found.black_box, found.data.costs
    models = drawn(rows, box, draws=4, rng=np.random.default_rng(3))
    name, settings = black_box_settings(box, found.data, models)
    sections = json.loads(json.dumps(task_of("t", found.data, name, settings)))
    served = parse_task(TaskFile(name=sections.pop("task"), tenant="", sections=sections, digest="d"))
    assert served.spec.name == "boosted_hte"
    x = found.data.x[:150]
    said = [combined([model(x) for model in each.values()], [box.weights[key] for key in each]) for each in models]
    best = np.argmax(np.stack(said) - costs, axis=2)
    shares = np.stack([(best == arm).mean(axis=0) for arm in range(3)], axis=1)
    floor = 0.02
    np.testing.assert_allclose(probabilities(served, contexts(served, 150)), (1 - floor) * shares + floor / 3, atol=1e-9)
    assert 0.02 < (shares.max(axis=1) < 1.0).mean() < 0.98


def rows_of(found: Personalised) -> Rows:
    data = found.data
    return Rows(data.x, data.utility, data.arm, data.propensity, len(data.arms)).at(data.train)


def test_models_of_halves_differ_by_what_the_black_box_may_be_wrong_by() -> None:
    """Of arms' means alone: the spread over halves is the standard error. Fixed key; 400 halves tell it to 3.5 %, 18 % is 1e-6."""
    rng = np.random.default_rng(0)
    arm = rng.integers(0, 2, 2_000)
    rows = Rows(rng.normal(size=(2_000, 1)), rng.normal(size=2_000), arm, np.full(2_000, 0.5), 2)
    box = black_box(rows)._replace(weights={"means": 1.0, "t ridge": 0.0})
    said = [models["means"](rows.x[:1])[0] for models in drawn(rows, box, draws=400, rng=rng)]
    spread = np.std([values[1] - values[0] for values in said])
    error = np.sqrt(rows.y[arm == 0].var() / (arm == 0).sum() + rows.y[arm == 1].var() / (arm == 1).sum())
    assert spread == pytest.approx(error, rel=0.18)


def test_one_model_is_nothing_to_draw_from() -> None:
    with pytest.raises((ConfigError, PolicyError), match="2 to 256"):
        build(PolicySpec.of("boosted_hte", {"draws": [{"intercept": [0.0, 1.0]}]}, floor=0.1, dims=Dims(actions=2, context=1, features=0)))
