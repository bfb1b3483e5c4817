"""What can go wrong in this room.

BanditsError
├── PolicyError          a policy that the catalog lacks, or settings that it refuses
├── FeatureError         a feature that the schema lacks, or a value that it refuses
├── SimulationError      a table, an experiment or a world that cannot be simulated
├── ExperimentError      an experiment's data from which what was asked cannot be estimated
├── SnapshotError        a snapshot that fails verification; it is never served
└── StoreError           the store cannot do what was asked
    ├── ChampionMoved    a compare-and-swap lost against another writer
    ├── TrafficMoved     as that, of the experiments of a task
    ├── TrafficRefused   shares that no allocation has, or of arms that do not exist
    ├── UnknownSnapshot  no such snapshot, challenger or verdict in the store
    └── VerdictRefused   the verdict quoted does not allow the move
"""

__all__ = [
    "BanditsError",
    "ChampionMoved",
    "ExperimentError",
    "FeatureError",
    "PolicyError",
    "SimulationError",
    "SnapshotError",
    "StoreError",
    "TrafficMoved",
    "TrafficRefused",
    "UnknownSnapshot",
    "VerdictRefused",
]


class BanditsError(Exception):
    """Root of this room's errors. The message names the argument, the value and the remedy."""


class PolicyError(BanditsError):
    """The catalog has no such policy, or the policy refuses a setting."""


class FeatureError(BanditsError):
    """A feature is unknown, of the wrong type or size, or not finite. `field` is its path in a request."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class SimulationError(BanditsError):
    """A table lacks what a simulation needs, or an experiment asks for what its world does not have."""


class ExperimentError(BanditsError):
    """An experiment's data, or the config that describes them, do not allow what was asked: the message says which column and why."""


class SnapshotError(BanditsError):
    """A snapshot is incomplete, altered, of another shape, or not finite."""


class StoreError(BanditsError):
    """The store cannot do what was asked."""


class ChampionMoved(StoreError):
    """Another writer moved the champion since it was read: read it again and decide again."""


class TrafficMoved(StoreError):
    """Another writer moved the traffic since it was read: read it again and decide again."""


class TrafficRefused(StoreError):
    """Shares that add up to more than all, or of an experiment or an arm that the task does not have."""


class UnknownSnapshot(StoreError):
    """The store holds no such snapshot, challenger or verdict."""


class VerdictRefused(StoreError):
    """A move of the champion quotes a verdict that does not allow it."""
