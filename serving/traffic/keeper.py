"""Follows what stands beside a task's decisions: the experiments in the store, the snapshots of their arms, the unit features."""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from bandits.allocation import BASELINE, CHAMPION, ExperimentState, TrafficState, moved
from bandits.catalog import PolicySpec, build
from bandits.errors import BanditsError
from bandits.loaded import LoadedPolicy
from bandits.snapshots import Draft
from protos.unit_features import UnitFeatures
from serving.tasks import TaskRules
from serving.traffic.beside import ArmFeature, Beside, Shadowed
from serving.traffic.experiments import Experiments
from serving.traffic.section import Source, Traffic, arm_name
from serving.traffic.units import UnitTable, UnitTables

__all__ = ["SourceOfTraffic", "TrafficKeeper", "keeper_of"]

_logger = logging.getLogger(__name__)


class SourceOfTraffic(Protocol):
    """What the keeper needs of a store."""

    def traffic(self) -> TrafficState:
        """The experiments as they stand."""

    def move_traffic(
        self, change: Callable[[TrafficState], TrafficState], *, expected: int | None, now_us: int, actor: str, reason: str
    ) -> TrafficState:
        """Moves them."""

    def publish(self, draft: Draft) -> str:
        """Publishes a snapshot."""


class TrafficKeeper:
    """Of one task. For the thread that follows the store."""

    def __init__(self, store: SourceOfTraffic, rules: TaskRules, *, tables: UnitTables | None = None) -> None:
        self._store, self._rules, self._tables = store, rules, tables
        section = rules.traffic
        self._arm_feature = ArmFeature.of(section.arm_feature, rules.schema) if section.arm_feature else None
        self._loaded: dict[str, LoadedPolicy | None] = {}
        self._units: tuple[UnitFeatures | None, UnitTable | None] = (None, None)
        self._shadows: dict[str, str] = {}
        self._standing: Beside | None = None

    def begin(self, load: Callable[[str], LoadedPolicy], *, now_us: int) -> Beside | None:
        """Publishes the policies that the task's file declares, lets the shares follow it, and loads what decides or is scored.

        None as long as none of it concerns the task: then it is decided as if there were nothing of the kind.
        """
        serves = {name: self._published(name, arm) for name, arm in self._rules.traffic.arms()}
        if self._rules.traffic.experiments:
            self._store.move_traffic(
                lambda standing: followed(standing, self._rules.traffic, serves),
                expected=None,
                now_us=now_us,
                actor="serving",
                reason="the task's file",
            )
        self._shadows = {name: self._published(f"shadow/{name}", shadow) for name, shadow in self._rules.traffic.shadows.items()}
        self._standing = self._made(self._state(), load)
        return self._concerned()

    def look(self, load: Callable[[str], LoadedPolicy]) -> Beside | None:
        """What stands now: the same object where nothing changed."""
        standing = self._standing
        assert standing is not None, "begin comes first"
        try:
            state = self._state()
        except (BanditsError, OSError) as error:
            _logger.error("task %s: the traffic cannot be read (%s); what stands stays", self._rules.name, error)
            return self._concerned()
        if state.generation != standing.generation:
            self._standing = self._made(state, load)
        elif (units := self._unit_table()) is not standing.units:
            self._standing = standing._replace(units=units)
        return self._concerned()

    def _state(self) -> TrafficState:
        return self._store.traffic() if self._rules.traffic.experiments else TrafficState()

    def _concerned(self) -> Beside | None:
        found = self._standing
        return found if found is not None and any((found.experiments, found.units, found.arm_feature, found.shadows)) else None

    def _made(self, state: TrafficState, load: Callable[[str], LoadedPolicy]) -> Beside:
        section = self._rules.traffic
        policies = self._policies(state, load)
        shadows = [(name, self._served(found, load), section.shadows[name].share) for name, found in self._shadows.items()]
        experiments = Experiments(section, state.experiments, task=self._rules.name, targets=self._rules.targets, arms=policies)
        return Beside(
            generation=state.generation,
            experiments=experiments if section.deals else None,
            policies=policies,
            units=self._unit_table(),
            arm_feature=self._arm_feature,
            shadows=tuple(Shadowed(name, policy, share) for name, policy, share in shadows if policy is not None),
        )

    def _policies(self, state: TrafficState, load: Callable[[str], LoadedPolicy]) -> dict[str, LoadedPolicy | str]:
        """Of each arm that can be served, what serves it."""
        wanted = {arm_name(name, arm): served for name, found in state.experiments.items() for arm, served in found.serves.items()}
        found: dict[str, LoadedPolicy | str] = {}
        for arm, served in wanted.items():
            policy = self._served(served, load)
            if policy is not None:
                found[arm] = policy
        return found

    def _served(self, serves: str, load: Callable[[str], LoadedPolicy]) -> LoadedPolicy | str | None:
        return serves if serves in (CHAMPION, BASELINE) else self._load(serves, load)

    def _load(self, digest: str, load: Callable[[str], LoadedPolicy]) -> LoadedPolicy | None:
        """A snapshot, verified and warm; None, with a line in the log, if it cannot be served: then its units stay with the champion."""
        if self._loaded.get(digest) is None:
            try:
                self._loaded[digest] = load(digest)
            except (BanditsError, OSError) as error:
                _logger.error("task %s: snapshot %s of an arm is not served (%s)", self._rules.name, digest, error)
                self._loaded[digest] = None
        return self._loaded[digest]

    def _published(self, name: str, source: Source) -> str:
        spec = self._rules.arm_specs.get(name)
        if spec is None:
            return source.snapshot or source.serves
        return self._store.publish(_on_its_prior(spec, self._rules, label=name))

    def _unit_table(self) -> UnitTable | None:
        if self._tables is None:
            return None
        found = self._tables.of(self._rules.tenant)
        if found is not self._units[0]:
            table = UnitTable(found, self._rules.schema) if found is not None else None
            self._units = (found, None if table is None or table.empty else table)
        return self._units[1]


def keeper_of(store: SourceOfTraffic, rules: TaskRules, *, tables: UnitTables | None) -> TrafficKeeper | None:
    """Who follows what stands beside a task's decisions; None where nothing can, so that the task is decided as if none of it existed."""
    if not rules.traffic.deals and not rules.traffic.shadows and tables is None:
        return None
    return TrafficKeeper(store, rules, tables=tables)


def followed(standing: TrafficState, section: Traffic, serves: Mapping[str, str]) -> TrafficState:
    """The state that a task's file asks for: new experiments begin, changed shares move what they must, others stay as they stand."""
    experiments = {}
    for name, declared in section.experiments.items():
        shares = {arm: found.share for arm, found in declared.arms.items()}
        before = standing.experiments.get(name, ExperimentState({}, {}, {}))
        ranges = before.ranges if before.declared == shares else moved(before.ranges, shares)
        experiments[name] = ExperimentState(ranges, {arm: serves[arm_name(name, arm)] for arm in shares}, shares)
    return standing._replace(experiments=experiments)


def _on_its_prior(spec: PolicySpec, rules: TaskRules, *, label: str) -> Draft:
    """A snapshot of a policy that has learned nothing: the same digest wherever and whenever it is published, whatever shares are."""
    about = {"tenant": rules.tenant, "task": rules.name, "actions": rules.schema.actions, "schema_digest": rules.schema_digest}
    manifest = {**about, "config_digest": "", "kind": "change", "created_us": 0, "label": label}
    return Draft(spec=spec, state=build(spec).init(), manifest=manifest)
