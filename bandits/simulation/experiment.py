"""An experiment: a world, the policies to try in it, how many rounds and seeds. The model of the YAML file, and what it comes to."""

from typing import Any, NamedTuple

import pydantic
import yaml

from bandits.catalog import PolicySpec
from bandits.config import PolicySection
from bandits.errors import SimulationError
from bandits.policy import Dims
from bandits.preselection import PRESELECT
from protos import config

__all__ = ["DEFAULT_FLOOR", "DEFAULT_POLICY", "Contender", "EnvironmentChoice", "Experiment", "PolicyChoice", "contenders", "policy_choice"]

# What is tried, and how, where nothing is named: what a task's file without a `policy` section would serve.
DEFAULT_POLICY: str = PolicySection.model_fields["name"].default
DEFAULT_FLOOR: float = PolicySection.model_fields["floor"].default


class PolicyChoice(config.StrictModel):
    """A policy that is tried."""

    #: Name in the catalog of policies.
    name: str = DEFAULT_POLICY
    #: Settings of that policy.
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)
    #: Share of traffic that explores evenly, in [0, 1].
    floor: float = pydantic.Field(default=DEFAULT_FLOOR, ge=0.0, le=1.0)
    #: What it is wrapped in, as in a task's file; a round of a simulation is a second of event time.
    wrappers: tuple[dict[str, Any], ...] = ()
    #: Most candidates that a slate is drawn from, 64..10,000.
    preselect: int = pydantic.Field(default=PRESELECT, ge=64, le=10_000)
    #: What it is called in the result; without one, its name.
    label: str = ""


class EnvironmentChoice(config.StrictModel):
    """The world."""

    #: Name in the catalog of environments.
    name: str
    #: Settings of that environment.
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)


class DelaySettings(config.StrictModel):
    """How late rewards come."""

    #: Mean of the geometric distribution of the delay, rounds, > 0.
    mean_rounds: float = pydantic.Field(gt=0.0)
    #: No reward is later than this, rounds, 1..10,000; memory and time of an update grow with it.
    longest_rounds: int = pydantic.Field(ge=1, le=10_000)


class Experiment(config.StrictModel):
    """The file of an experiment."""

    environment: EnvironmentChoice
    policies: tuple[PolicyChoice, ...] = (PolicyChoice(),)
    #: Decisions of each seed.
    rounds: int = pydantic.Field(ge=1)
    #: Seeds 0, 1, ..., all run together.
    seeds: int = pydantic.Field(default=20, ge=1)
    #: Decisions between two updates.
    learn_every: int = pydantic.Field(default=1, ge=1)
    #: Rewards that come late; without it, before the next request.
    delay: DelaySettings | None = None


class Contender(NamedTuple):
    """A policy that is tried, with the name that the result gives it."""

    label: str
    spec: PolicySpec


def contenders(choices: tuple[PolicyChoice, ...], *, dims: Dims) -> list[Contender]:
    """The chosen policies for an environment of these sizes. Raises PolicyError or ConfigError for an unknown name or setting,
    SimulationError for none, or two of one label."""
    if not choices:
        raise SimulationError("policies: none is named; name one, or leave the key out for the default")
    found = [Contender(choice.label or choice.name, _spec(choice, dims)) for choice in choices]
    labels = [contender.label for contender in found]
    for label in labels:
        if labels.count(label) > 1:
            raise SimulationError(f"policies: {label!r} stands twice; give each a `label` of its own")
    return found


def _spec(choice: PolicyChoice, dims: Dims) -> PolicySpec:
    around = choice.wrappers
    return PolicySpec.of(choice.name, choice.settings, floor=choice.floor, dims=dims, wrappers=around, preselect=choice.preselect)


def policy_choice(text: str, *, floor: float) -> PolicyChoice:
    """A policy as a flag names it: `NAME`, or `NAME {setting: value}`, which is then its label too. Raises SimulationError for settings
    that are no YAML, ConfigError for others that are refused."""
    name, _, settings = text.partition(" ")
    try:
        given = yaml.safe_load(settings) if settings.strip() else {}
    except yaml.YAMLError as error:
        raise SimulationError(f"--policy {text}: {' '.join(str(error).split())}; give NAME or NAME {{setting: value}}") from error
    return config.parse(PolicyChoice, {"name": name, "settings": given, "floor": floor, "label": text.strip()}, where="--policy")
