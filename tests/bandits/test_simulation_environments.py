"""Every environment of the catalog keeps its contract and tells the truth about itself: rewards average to the values that it states."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pytest

from bandits.catalog import PolicySpec
from bandits.errors import SimulationError
from bandits.simulation.catalog import ENVIRONMENTS
from bandits.simulation.clicks import ClicksSettings, clicks
from bandits.simulation.environment import Environment
from bandits.simulation.items import ItemsSettings, items
from bandits.simulation.linear import DriftingSettings, drifting
from bandits.simulation.logs import logged_rows, replay
from bandits.simulation.run import History, simulate
from bandits.simulation.wheel import WheelSettings, wheel
from protos import config

ROWS = 1_500
PROPENSITY = np.array([0.2, 0.3, 0.5])
SETTINGS: Mapping[str, dict[str, Any]] = {
    "classification": {
        "data": "table",
        "label": "class",
        "rewards": {"actions": ["eat", "leave", "sniff"], "table": {"a": [5, 0, 1], "b": [[[5, 0.25], [-35, 0.75]], 0, 1]}},
    },
    "clicks": {"actions": 4, "features": 2, "seen": [1.0, 0.5]},
    "drifting": {"actions": 3, "features": 2, "period": 100},
    "imitation": {"data": "table", "action": "action", "reward": "reward", "ignore": ["propensity", "class"]},
    "items": {"items": 6, "offered": 4, "features": 2, "item_features": 3, "own": 0.3},
    "linear": {"actions": 3, "features": 2},
    "logistic": {"actions": 3, "features": 2},
    "replay": {"data": "table", "action": "action", "reward": "reward", "propensity": "propensity"},
    "tradeoff": {"actions": 3, "features": 2},
    "wheel": {"delta": 0.9},
}


class Logged(NamedTuple):
    """A log whose truth is known: `table`, and the mean reward of even choice."""

    table: pa.Table
    uniform_value: float


def logged(*, seed: int = 0) -> Logged:
    rng = np.random.default_rng(seed)
    x, action = rng.normal(size=ROWS), rng.choice(3, ROWS, p=PROPENSITY)
    means = np.stack([0.5 + 0.1 * x, 0.2 + 0.0 * x, 0.8 - 0.1 * x], axis=1)
    reward = means[np.arange(ROWS), action] + 0.1 * rng.normal(size=ROWS)
    classes = np.where(x + rng.normal(size=ROWS) > 0, "a", "b")
    columns = {"x": x, "class": classes, "action": action, "reward": reward, "propensity": PROPENSITY[action]}
    return Logged(pa.table(columns), float(means.mean()))


@pytest.fixture(params=sorted(ENVIRONMENTS))
def environment(request: pytest.FixtureRequest) -> Environment:
    entry = ENVIRONMENTS[request.param]
    settings = config.parse(entry.settings, SETTINGS[request.param], where="settings")
    return entry.factory(settings, *([logged().table] if entry.reads_table else []))


def even(environment: Environment, *, rounds: int = 500, seeds: int = 3) -> History:
    """The history of a uniform policy."""
    return simulate(environment, PolicySpec.of("uniform", {}, floor=0.0, dims=environment.dims), rounds=rounds, seeds=range(seeds))


def means_what_it_says(found: History) -> bool:
    """The checker: what was earned less what was expected is zero within 5 standard errors (false alarm 6e-7 an environment)."""
    surprise = (found.earned - found.value).ravel()
    return bool(abs(surprise.mean()) <= 5 * surprise.std() / np.sqrt(surprise.size) + 1e-12)


def test_offers_and_outcomes_have_the_shapes_of_the_contract(environment: Environment) -> None:
    world, key, slots = environment.begin(0), jax.random.key(0), environment.slots
    offer = environment.offer(world, np.int32(0), key)
    assert offer.context.shape == (environment.dims.context,) and offer.context.dtype == np.float32
    assert offer.candidates.features.shape == (*offer.candidates.action.shape, environment.dims.features)
    assert offer.eligible.shape == offer.candidates.action.shape and offer.eligible.dtype == bool
    outcome = environment.respond(world, np.int32(0), offer, np.arange(slots, dtype=np.int32), key)
    assert outcome.reward.shape == outcome.seen.shape == (slots,)
    assert all(leaf.dtype == np.float64 for leaf in (outcome.reward, outcome.earned, outcome.value, outcome.best))
    assert all(leaf.shape == () for leaf in (outcome.counted, outcome.earned, outcome.value, outcome.best))
    assert outcome.outcomes is None if not environment.outcomes else outcome.outcomes.shape == (slots, len(environment.outcomes))
    assert jax.tree.map(np.shape, environment.begin(1)) == jax.tree.map(np.shape, world)


def test_rewards_average_to_the_stated_values_and_none_beats_the_best(environment: Environment) -> None:
    found = even(environment)
    if np.isnan(found.best).all():
        assert environment.caveat, "an environment that knows no regret says why"
        return
    assert means_what_it_says(found)
    kept = ~found.violated
    assert np.all((found.best >= found.value - 1e-12)[kept]) and found.best[kept].mean() > found.value[kept].mean()
    off = found.earned.std() * 0.2
    assert not means_what_it_says(found._replace(value=found.value + off)), "the checker sees a value that is off by a fifth of a deviation"


def test_only_classification_and_worlds_that_are_simulated_have_no_caveat() -> None:
    doubtful = {name for name, entry in ENVIRONMENTS.items() if entry.reads_table} - {"classification"}
    for name in doubtful:
        entry = ENVIRONMENTS[name]
        assert entry.factory(config.parse(entry.settings, SETTINGS[name], where=""), logged().table).caveat
    assert doubtful == {"replay", "imitation"}


@pytest.mark.parametrize("method", ["rejection", "ips"])
def test_a_replayed_log_gives_an_even_policy_its_true_mean(method: Any) -> None:
    """All 1,500 rows, three orders. The rows are the same each time, so the error is that of one pass: within 5 of its standard errors
    (false alarm 6e-7). The log's own mean is off by twice that and more."""
    log = logged()
    rows = logged_rows(log.table, action="action", reward="reward", propensity="propensity", ignore=("class",))
    found = even(replay(rows, method=method), rounds=ROWS)
    earned = found.earned[0][found.counted[0]]
    error = earned.std() / np.sqrt(earned.size)
    assert abs(found.earned[found.counted].mean() - log.uniform_value) < 5 * error
    if method == "rejection":
        assert found.counted.mean() == pytest.approx(0.2, abs=0.03), "matched (1/3), thinned to the rarest: 3 x 0.2 x 1/3"
        assert abs(rows.reward.mean() - log.uniform_value) > 2 * rows.reward.std() / np.sqrt(ROWS)


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("propensity", np.full(ROWS, 1.5), "propensity: column 'propensity' holds 1.5 in row 0"),
        ("propensity", np.zeros(ROWS), "give probabilities in"),
        ("action", np.zeros(ROWS), "action: column 'action' has one class only, "),
        ("reward", np.full(ROWS, np.inf), "reward: column 'reward' holds inf in row 0"),
        ("reward", np.full(ROWS, "a"), "reward: column 'reward' holds string; name a column of numbers"),
    ],
)
def test_a_log_that_cannot_be_replayed_is_refused(column: str, values: np.ndarray, says: str) -> None:
    table = logged().table
    table = table.set_column(table.column_names.index(column), column, pa.array(values))
    with pytest.raises(SimulationError, match=says):
        logged_rows(table, action="action", reward="reward", propensity="propensity")


def test_an_offer_of_items_has_their_own_features_and_rewards() -> None:
    world = items(ItemsSettings(items=6, offered=4, features=2, item_features=3, own=0.3))
    seed, key = world.begin(5), jax.random.key(1)
    offer = world.offer(seed, np.int32(0), key)
    shown, context = np.asarray(offer.candidates.action), np.asarray(offer.context, np.float64)
    assert len(set(shown.tolist())) == 4 and set(shown.tolist()) <= set(range(6))
    for place, item in enumerate(shown):
        np.testing.assert_array_equal(offer.candidates.features[place], seed.features[item])
        expected = sum(seed.features[item, j] * (seed.main[j] + context @ seed.interaction[:, j]) for j in range(3)) + seed.own[item]
        assert offer.truth[place] == pytest.approx(expected, abs=1e-12)
    with pytest.raises(SimulationError, match=r"offered: 7 of 6 items; give 2\.\.6"):
        items(ItemsSettings(items=6, offered=7))


def test_the_wheel_pays_as_its_paper_says() -> None:
    """Against the definition, point by point; and a share 1 - delta^2 of the contexts is rare, within 5 standard errors (6e-7)."""
    world = wheel(WheelSettings(delta=0.8))
    offers = jax.vmap(lambda key: world.offer(world.begin(0), np.int32(0), key))(jax.random.split(jax.random.key(0), 4_000))
    context, expected = np.asarray(offers.context, np.float64), np.asarray(offers.truth)
    outside = (context**2).sum(axis=1) > 0.64
    assert np.all((context**2).sum(axis=1) <= 1.0) and abs(outside.mean() - 0.36) < 5 * np.sqrt(0.36 * 0.64 / 4_000)
    quadrant = 1 + (context[:, 0] < 0) + 2 * (context[:, 1] < 0)
    for action in range(5):
        rare = outside & (quadrant == action)
        np.testing.assert_array_equal(expected[:, action], np.where(rare, 50.0, 1.2 if action == 0 else 1.0))


@pytest.mark.parametrize("drift", ["turning", "switching"])
def test_drifting_weights_are_a_function_of_the_round(drift: Any) -> None:
    """The same context in rounds 0, 49, 50 and 100: turning comes full circle after a period, switching stays within one and then jumps."""
    world = drifting(DriftingSettings(actions=3, features=2, drift=drift, period=50))
    truth = {t: np.asarray(world.offer(world.begin(4), np.int32(t), jax.random.key(0)).truth) for t in (0, 1, 25, 49, 50, 100)}
    if drift == "turning":
        np.testing.assert_allclose(truth[50], truth[0], atol=1e-12)
        np.testing.assert_allclose(truth[25], -truth[0], atol=1e-12)
        assert not np.allclose(truth[1], truth[0], atol=1e-3)
    else:
        np.testing.assert_array_equal(truth[49], truth[0])
        assert not np.allclose(truth[50], truth[0]) and not np.allclose(truth[100], truth[50])


def test_clicks_of_unseen_slots_train_only_where_asked() -> None:
    """2,000 answers to one slate; the share of looks at the lower slot is 0.5 within 5 standard errors (false alarm 6e-7)."""
    worlds = [clicks(ClicksSettings(actions=4, features=2, seen=(1.0, 0.5), train_on=on)) for on in ("seen", "all")]
    offer = worlds[0].offer(worlds[0].begin(0), np.int32(0), jax.random.key(0))
    keys, slate = jax.random.split(jax.random.key(1), 2_000), np.array([2, 0], np.int32)
    seen, every = (jax.vmap(lambda key, world=world: world.respond(None, np.int32(0), offer, slate, key))(keys) for world in worlds)
    assert every.seen.all() and seen.seen[:, 0].all()
    assert abs(np.asarray(seen.seen[:, 1]).mean() - 0.5) < 5 * 0.5 / np.sqrt(2_000)
    np.testing.assert_array_equal(seen.reward, every.reward)
    assert not seen.reward[~seen.seen].any() and seen.reward[:, 1].any()


@pytest.mark.parametrize("shares", [(), (1.0,) * 5])
def test_a_slate_without_slots_or_with_more_than_items_is_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(SimulationError, match=r"seen: \d slots for 4 actions"):
        clicks(ClicksSettings(actions=4, features=2, seen=shares))
