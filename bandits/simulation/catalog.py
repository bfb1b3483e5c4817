"""Every environment by name, and the environment of an experiment."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bandits.errors import SimulationError
from bandits.simulation.classification import ClassificationSettings, classification_of
from bandits.simulation.clicks import ClicksSettings, clicks
from bandits.simulation.delay import delayed
from bandits.simulation.environment import Environment
from bandits.simulation.experiment import Experiment
from bandits.simulation.items import ItemsSettings, items
from bandits.simulation.linear import DriftingSettings, LinearSettings, drifting, linear, logistic
from bandits.simulation.logs import ImitationSettings, ReplaySettings, imitation_of, replay_of
from bandits.simulation.tables import read_table
from bandits.simulation.tradeoff import TradeoffSettings, tradeoff
from bandits.simulation.wheel import WheelSettings, wheel
from protos import config

__all__ = ["ENVIRONMENTS", "EnvironmentEntry", "environment_of"]


class EnvironmentEntry(NamedTuple):
    """An environment of the catalog: `factory(settings) -> Environment`, or `factory(settings, table)` where it reads a table.

    Settings of an environment that reads a table have the fields `data` and `header`.
    """

    factory: Callable[..., Environment]
    settings: type[config.StrictModel]
    reads_table: bool


ENVIRONMENTS: Mapping[str, EnvironmentEntry] = {
    "classification": EnvironmentEntry(classification_of, ClassificationSettings, reads_table=True),
    "clicks": EnvironmentEntry(clicks, ClicksSettings, reads_table=False),
    "drifting": EnvironmentEntry(drifting, DriftingSettings, reads_table=False),
    "imitation": EnvironmentEntry(imitation_of, ImitationSettings, reads_table=True),
    "items": EnvironmentEntry(items, ItemsSettings, reads_table=False),
    "linear": EnvironmentEntry(linear, LinearSettings, reads_table=False),
    "logistic": EnvironmentEntry(logistic, LinearSettings, reads_table=False),
    "replay": EnvironmentEntry(replay_of, ReplaySettings, reads_table=True),
    "tradeoff": EnvironmentEntry(tradeoff, TradeoffSettings, reads_table=False),
    "wheel": EnvironmentEntry(wheel, WheelSettings, reads_table=False),
}


def environment_of(experiment: Experiment, *, folder: Path) -> Environment:
    """The world of an experiment whose file lies in `folder`; a relative path of its data starts there.

    Raises SimulationError for an unknown name or a table that does not fit, ConfigError for settings that are refused.
    """
    name = experiment.environment.name
    if name not in ENVIRONMENTS:
        raise SimulationError(f"environment.name: {name!r} is unknown; {config.nearest(name, ENVIRONMENTS)}")
    entry = ENVIRONMENTS[name]
    settings: Any = config.parse(entry.settings, experiment.environment.settings, where="environment.settings")
    tables = [read_table(folder / settings.data, header=settings.header)] if entry.reads_table else []
    environment = entry.factory(settings, *tables)
    late = experiment.delay
    return environment if late is None else delayed(environment, mean_rounds=late.mean_rounds, longest_rounds=late.longest_rounds)
