"""The table of deletions beside the two others: what a worker and a backfill ask before they use an event. Touches the table."""

from pathlib import Path

import deltalake
import polars as pl
import pyarrow as pa

from attribution.erasure import DELETION_SCHEMA
from attribution.tables import DELETIONS_DIR, open_table

__all__ = ["Deletions", "read_deletions", "request_deletion"]


def request_deletion(out: Path, *, tenant: str, unit_id: str, until_us: int, now_us: int) -> None:
    """Writes one deletion down. Raises TableError."""
    open_table(out / DELETIONS_DIR, schema=DELETION_SCHEMA)
    row = {"tenant": tenant, "unit_id": unit_id, "until_us": until_us, "requested_us": now_us}
    deltalake.write_deltalake(out / DELETIONS_DIR, pa.Table.from_pylist([row], schema=DELETION_SCHEMA), mode="append")


def read_deletions(out: Path) -> pl.DataFrame:
    """Every deletion below `out`; none where the table does not exist."""
    return Deletions(out).now()


class Deletions:
    """The deletions as they are now, read again only when the table has moved."""

    def __init__(self, out: Path) -> None:
        self._path = out / DELETIONS_DIR
        self._seen = -1
        nothing = pl.from_arrow(DELETION_SCHEMA.empty_table())
        assert isinstance(nothing, pl.DataFrame)
        self._frame = nothing

    def now(self) -> pl.DataFrame:
        """One row a deletion (DELETION_SCHEMA)."""
        if (self._path / "_delta_log").exists():
            table = open_table(self._path, schema=None)
            if table.version != self._seen:
                self._frame, self._seen = table.read(columns=DELETION_SCHEMA.names), table.version
        return self._frame
