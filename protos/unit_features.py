"""Features of units as a versioned, read-only table: attribution writes it, the server holds the newest version in memory.

    <folder>/latest                          name of the newest version, as text; replaced in one step
    <folder>/<version>/features.parquet      one row a unit: unit_id, a float64 a feature (none null), first_time_us (of its oldest signal)
    <folder>/<version>/manifest.json         UnitFeaturesManifest

A folder belongs to one tenant. A version never changes after it has appeared: its name is the time up to which it counts and the digest of
its rows, so whoever logs the name can say later what stood in it. A deletion of a unit removes the versions that hold it and puts others
without it in their place, so a reader looks at `latest` again from time to time and lets an older version go.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from protos.errors import UnitFeaturesError

__all__ = [
    "FEATURES_FILE",
    "LATEST",
    "MANIFEST_FILE",
    "UNIT_FEATURES",
    "FeatureColumn",
    "UnitFeatures",
    "UnitFeaturesManifest",
    "latest_version",
    "load_unit_features",
    "read_manifest",
]

# Name of the folder beside the tables of the joiner; below it a folder a tenant.
UNIT_FEATURES = "unit_features"
LATEST, FEATURES_FILE, MANIFEST_FILE = "latest", "features.parquet", "manifest.json"
_FORMAT = 1
# A version may be replaced between the look at `latest` and the read.
_LOOKS = 5


@dataclasses.dataclass(frozen=True)
class FeatureColumn:
    """One feature: `aggregate` (count, sum, last) of the signals `signal` in the `window_s` seconds before the manifest's time."""

    name: str
    signal: str
    aggregate: str
    window_s: float
    #: What a unit has that did nothing in the window, and a unit that has no row.
    default: float


@dataclasses.dataclass(frozen=True)
class UnitFeaturesManifest:
    """What a version says of itself. Times in microseconds since the epoch.

    `at_us`: signals before it are counted. `digest`: SHA-256 of the file of features. `rows`: units. `published_us`: when it was made.
    """

    version: str
    tenant: str
    at_us: int
    digest: str
    rows: int
    published_us: int
    columns: tuple[FeatureColumn, ...]

    def to_json(self) -> str:
        """The manifest as a file holds it; every feature is a float64."""
        told = dataclasses.asdict(self)
        told["columns"] = [{**column, "dtype": "float64"} for column in told["columns"]]
        return json.dumps({"format": _FORMAT, **told}, indent=1) + "\n"


@dataclasses.dataclass(frozen=True)
class UnitFeatures:
    """A version in memory: `values` f64[units, columns], and the row of each unit."""

    manifest: UnitFeaturesManifest
    values: np.ndarray[Any, np.dtype[np.float64]]
    row_of: Mapping[str, int]

    def rows(self, units: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """f64[len(units), columns]: the features of these units in the manifest's order, defaults for those that have none."""
        defaults = np.array([[column.default for column in self.manifest.columns]], dtype=np.float64)
        return np.concatenate([self.values, defaults])[[self.row_of.get(unit, len(self.values)) for unit in units]]


def latest_version(folder: Path) -> str | None:
    """Name of the newest version; None where there is none yet. Cheap: what a server asks for from time to time."""
    try:
        return (folder / LATEST).read_text().strip()
    except FileNotFoundError:
        return None


def read_manifest(version: Path) -> UnitFeaturesManifest:
    """The manifest of a version's folder. Raises UnitFeaturesError if it is none; FileNotFoundError if it is gone."""
    path = version / MANIFEST_FILE
    try:
        told = json.loads(path.read_text())
        if told.pop("format") != _FORMAT:
            raise UnitFeaturesError(f"{path}: format is not {_FORMAT}; write the features again with this version")
        columns = tuple(FeatureColumn(**{key: value for key, value in column.items() if key != "dtype"}) for column in told.pop("columns"))
        return UnitFeaturesManifest(columns=columns, **told)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnitFeaturesError(f"{path}: is no manifest ({error}); write the features again (`attribution unit-features`)") from error


def load_unit_features(folder: Path) -> UnitFeatures | None:
    """The newest version of a tenant's folder, checked against its digest; None where there is none yet. Raises UnitFeaturesError."""
    for _ in range(_LOOKS):
        version = latest_version(folder)
        if version is None:
            return None
        try:
            return _load(folder / version)
        except FileNotFoundError:
            continue
    raise UnitFeaturesError(f"{folder}: `{LATEST}` names {version!r}, which is not there; write the features again")


def _load(version: Path) -> UnitFeatures:
    manifest, data = read_manifest(version), (version / FEATURES_FILE).read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != manifest.digest:
        raise UnitFeaturesError(f"{version}: digest is {found}, not {manifest.digest}; the file was changed: write the features again")
    table = pq.read_table(pa.BufferReader(data))
    if table.schema.names[: 1 + len(manifest.columns)] != ["unit_id", *(column.name for column in manifest.columns)]:
        raise UnitFeaturesError(f"{version}: columns are not those of its manifest; write the features again")
    empty = np.zeros((table.num_rows, 0))
    values = np.column_stack([empty, *(table[column.name].to_numpy() for column in manifest.columns)])
    return UnitFeatures(manifest, values, {unit: row for row, unit in enumerate(table["unit_id"].to_pylist())})
