"""Features of units that the server holds: a request that lacks one gets the unit's own. The table is attribution's, read-only."""

import logging
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from bandits.features import Schema
from protos.errors import UnitFeaturesError
from protos.unit_features import UnitFeatures, latest_version, load_unit_features
from serving.traffic.target import places_of
from serving.validate import Selection, Unit

__all__ = ["UnitTable", "UnitTables"]

_logger = logging.getLogger(__name__)
_Asked = TypeVar("_Asked", Selection, Unit)


class _Column(NamedTuple):
    """A feature of the task that is a column of the table, and the byte of the context where it stands."""

    column: int
    at: int


class UnitTable:
    """A version of the table, as one task's contexts take it. Immutable."""

    def __init__(self, table: UnitFeatures, schema: Schema) -> None:
        self.version = table.manifest.version
        names = [column.name for column in table.manifest.columns]
        self._columns: Mapping[str, _Column] = {
            name: _Column(names.index(name), at)
            for name, (feature, at) in places_of(schema).items()
            if name in names and feature.type == "float" and feature.width == 1
        }
        self._row_of = table.row_of
        #: f32[units + 1, columns]; the last row is of those that have none.
        self._values = _sound(table)

    @property
    def empty(self) -> bool:
        """Has the task no feature of the table?"""
        return not self._columns

    def filled(self, asked: _Asked) -> _Asked:
        """The same with the unit's features in place of defaults; what the request gave stands."""
        columns = self._columns
        found = [name for name in asked.defaulted if name in columns]
        if not found:
            return asked
        context, row = bytearray(asked.context), self._values[self._row_of.get(asked.unit_id, -1)]
        for name in found:
            column, at = columns[name]
            struct.pack_into("<f", context, at, row[column])
        left = tuple(name for name in asked.defaulted if name not in columns)
        return asked._replace(context=bytes(context), defaulted=left, unit_features=self.version)


class UnitTables:
    """The newest versions of all tenants, below one folder. For one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tables: dict[str, tuple[str, UnitFeatures]] = {}

    def of(self, tenant: str) -> UnitFeatures | None:
        """A tenant's table as it is now; None where there is none. One that cannot be read leaves the one before, and is logged."""
        folder = self._folder / tenant
        version = latest_version(folder)
        known = self._tables.get(tenant)
        if version is None or (known is not None and known[0] == version):
            return known[1] if known is not None and version is not None else None
        try:
            loaded = load_unit_features(folder)
        except (UnitFeaturesError, OSError) as error:
            _logger.error("unit features of tenant %s: version %s is not served (%s); the one before stays", tenant, version, error)
            return known[1] if known is not None else None
        if loaded is not None:
            self._tables[tenant] = (loaded.manifest.version, loaded)
        return loaded


def _sound(table: UnitFeatures) -> np.ndarray:
    """The rows as float32, defaults where a number is none that may stand in a context."""
    defaults = np.array([column.default for column in table.manifest.columns], np.float64)
    with np.errstate(over="ignore"):
        values = np.concatenate([table.values, defaults[None, :]]).astype(np.float32)
    magnitude = np.abs(values)
    sound = np.isfinite(values) & ((magnitude >= np.finfo(np.float32).tiny) | (magnitude == 0))
    return np.where(sound, values, defaults.astype(np.float32))
