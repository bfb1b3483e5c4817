"""What is done beside a plain decision of a task: unit features are filled in, the unit is placed in an arm, which may be a feature."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bandits.allocation import BASELINE, CHAMPION
from bandits.features import Schema
from bandits.loaded import LoadedPolicy
from bandits.traffic import CHAMPION_ARM, PINNED_ARM, Assignment, whole
from protos.errors import ConfigError
from protos.events_pb2 import ARM_SOURCE_UNSPECIFIED, Decision
from serving.decide import Asked
from serving.snapshots import WHOLE, Served
from serving.traffic.experiments import Experiments, Placed
from serving.traffic.section import HOLDOUT_ARM
from serving.traffic.target import places_of
from serving.traffic.units import UnitTable
from serving.validate import Selection, Unit

__all__ = ["ArmFeature", "Beside", "Shadowed", "policy_of"]


class Shadowed(NamedTuple):
    """A policy that is scored and not shown, or CHAMPION or BASELINE, and the share of the units that it is scored for."""

    name: str
    policy: LoadedPolicy | str
    share: float


class ArmFeature(NamedTuple):
    """A category of the context that takes the arm's name: where it begins, a byte, and the float32 one-hot of each word; "" of others."""

    name: str
    at: int
    words: Mapping[str, bytes]

    @classmethod
    def of(cls, name: str, schema: Schema) -> "ArmFeature":
        """Of the feature of this name. Raises ConfigError unless it is a category with a vocabulary."""
        feature, at = places_of(schema).get(name, (None, 0))
        if feature is None or not feature.vocabulary:
            raise ConfigError(f"traffic.arm_feature: {name!r} is no context feature with a vocabulary; declare one, with the arms' names")
        rows = np.eye(feature.width, dtype="<f4")
        return cls(name, at, {**{word: rows[place].tobytes() for place, word in enumerate(feature.vocabulary)}, "": rows[-1].tobytes()})

    def told(self, selection: Selection, arm: str) -> Selection:
        """The selection with the arm in its context."""
        word = self.words.get(arm) or self.words[""]
        context = selection.context[: self.at] + word + selection.context[self.at + len(word) :]
        return selection._replace(context=context, defaulted=tuple(name for name in selection.defaulted if name != self.name))


class Beside(NamedTuple):
    """All of it for one task, as it stands. `generation`: of the traffic it was made of. `policies`: of the arms that serve a snapshot of
    their own, by full name, or CHAMPION or BASELINE."""

    generation: int
    experiments: Experiments | None
    policies: Mapping[str, LoadedPolicy | str]
    units: UnitTable | None
    arm_feature: ArmFeature | None
    shadows: tuple[Shadowed, ...]

    @property
    def only_scores(self) -> bool:
        """Is a request decided as if there were nothing of it?"""
        return self.experiments is None and self.units is None and self.arm_feature is None

    def asked(self, selection: Selection, served: Served) -> Asked:
        """Who decides a selection, in which arm, and from which context. Raises SnapshotNotServed."""
        if self.units is not None and selection.defaulted:
            selection = self.units.filled(selection)
        if selection.pinned:
            decider, assignment, placed = served.pinned(selection.pinned), whole(PINNED_ARM), None
        else:
            decider, assignment, placed = self.decider(selection, served)
        if self.arm_feature is not None:
            selection = self.arm_feature.told(selection, assignment.arm)
        if (placed is not None and (placed.source or placed.ineligible_for)) or selection.unit_features:
            selection = selection._replace(further=_further(placed, selection.unit_features))
        return Asked(selection, decider, assignment, served.kill_switch)

    def decider(self, unit: Selection | Unit, served: Served) -> tuple[LoadedPolicy, Assignment, Placed | None]:
        """Who decides for a unit, and where it stands. The kill switch ends experiments and holdout: the baseline decides for all."""
        if self.experiments is None or served.kill_switch:
            return (*served.assigned(task=unit.rules.name, unit_id=unit.unit_id), None)
        placed = self.experiments.place(unit.unit_id, unit.context, sticky_arm=unit.sticky_arm)
        if placed.arm != CHAMPION_ARM:
            return self._of_arm(placed.arm, served), Assignment(placed.arm, placed.probability), placed
        if placed.source != ARM_SOURCE_UNSPECIFIED:
            return served.champion, WHOLE, placed
        policy, assignment = served.assigned(task=unit.rules.name, unit_id=unit.unit_id)
        # A staged promotion deals among those that no experiment took; its probability is of that deal.
        staged = assignment is not WHOLE
        return policy, assignment if staged else Assignment(CHAMPION_ARM, placed.probability), placed

    def _of_arm(self, arm: str, served: Served) -> LoadedPolicy:
        return policy_of(self.policies.get(arm, BASELINE if arm == HOLDOUT_ARM else CHAMPION), served)


def policy_of(serves: LoadedPolicy | str, served: Served) -> LoadedPolicy:
    """What an arm or a shadow serves now: a snapshot of its own, or whatever the champion or the baseline is."""
    if isinstance(serves, str):
        return served.baseline if serves == BASELINE else served.champion
    return serves


def _further(placed: Placed | None, unit_features: str) -> bytes:
    """Fields of a Decision that few decisions have, serialised."""
    source, refused = (placed.source, placed.ineligible_for) if placed is not None else (ARM_SOURCE_UNSPECIFIED, ())
    return Decision(ineligible_for=refused, unit_features=unit_features, arm_source=source).SerializeToString()
