"""Writes a copy of observations as a table of its own, for drills and experiments; the joiner's own table has one writer, the joiner."""

from pathlib import Path

import deltalake
import pyarrow as pa

from protos.observations import OBSERVATION_SCHEMA

__all__ = ["write_copy"]


def write_copy(folder: Path, rows: pa.Table) -> None:
    """A new table of rows with the columns of an observation, in a folder that holds none yet."""
    deltalake.write_deltalake(folder, rows.select(OBSERVATION_SCHEMA.names).cast(OBSERVATION_SCHEMA), mode="error")
