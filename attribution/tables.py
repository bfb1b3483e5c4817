"""A Delta table that knows how far it got: rows and positions in one commit, and a second writer refused.

Positions are Delta application transactions: an application id and a number that only grows. Delta itself refuses a commit whose ids
another writer has moved since our snapshot, but takes an OLD number from a fresh one; so the number is checked first, on the very
handle that commits.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from attribution.errors import Fenced, TableError
from protos.delta_tables import dataset_of

__all__ = ["DELETIONS_DIR", "EVENTS_DIR", "OBSERVATIONS_DIR", "PositionedTable", "open_table", "text"]

# Names of the tables below --out.
EVENTS_DIR = "events"
OBSERVATIONS_DIR = "observations"
DELETIONS_DIR = "deletions"
# Statistics of a file stand in the table's log and outlive the file: none may tell of a unit. These are what reads are pruned by.
_STATISTICS = ("kind", "topic", "partition", "offset", "event_time_us", "append_time_us", "decision_time_us", "commit_seq", "task")

_PLAIN = deltalake.ColumnProperties(dictionary_enabled=False, statistics_enabled="NONE")
_PRUNED = deltalake.ColumnProperties(dictionary_enabled=False, statistics_enabled="CHUNK")

# How often an append is tried again when something that is not about its positions has come between.
_REPEATS = 5


def text(column: str) -> pc.Expression:
    """A column of strings, for the `where` of a read.

    Delta rewrites a file (compaction, deletion) with view types, which Arrow's pruning by statistics can't compare: the cast can.
    """
    return pc.field(column).cast(pa.string())


class PositionedTable:
    """An open table. One instance is one writer: its handle is the snapshot that it checks and commits against."""

    def __init__(self, handle: Any, *, path: Path) -> None:
        self._handle = handle
        self._known: dict[str, int | None] = {}
        # Positions that were read from this very snapshot, or that only our own commits have moved since.
        self._checked: set[str] = set()
        self.path = path

    def position(self, app: str) -> int | None:
        """The number that the last commit with this application id carried; None before the first."""
        if app not in self._known:
            self._known[app] = self._read_position(app)
        return self._known[app]

    def append(self, rows: pa.Table, *, positions: Mapping[str, int], metadata: Mapping[str, str] | None = None) -> None:
        """Commits rows and positions as one; `metadata` stands in the commit, where `history` finds it.

        Raises Fenced if another writer has moved one of these positions: then nothing was written. Raises TableError if the disk refuses.
        """
        moves = [deltalake.Transaction(app, number) for app, number in positions.items()]
        properties = deltalake.CommitProperties(app_transactions=moves, custom_metadata=dict(metadata or {}))
        for last in (*[False] * _REPEATS, True):
            for app in positions.keys() - self._checked:
                self._check(app)
            before = self.version
            try:
                deltalake.write_deltalake(
                    self._handle, rows, mode="append", commit_properties=properties, writer_properties=_writing(rows.schema)
                )
                break
            except CommitFailedError as error:
                # A deletion or a compaction has come between. If our positions stand, it was not about us: once more, on what is there now.
                self.refresh()
                if last:
                    raise Fenced(f"{self.path}: other writers commit in between ({error}); stop one of the two and start again") from error
            except (DeltaError, OSError) as error:
                raise TableError(
                    f"{self.path}: {rows.num_rows} rows could not be written ({error}); mend the disk and start again"
                ) from error
        self._known |= positions
        # With one version more nobody has committed in between; with several, what the others moved is looked at before the next commit.
        self._checked = self._checked | positions.keys() if self.version == before + 1 else set()

    def refresh(self) -> None:
        """Moves on to the table as it is now. What this writer knows of its positions stays: they are checked before the next commit."""
        self._handle.update_incremental()
        self._checked = set()

    def forget(self, partitions: Collection[int]) -> None:
        """Positions of these partitions (the last part of their names) are to be read anew: they were another writer's."""
        self._known = {app: at for app, at in self._known.items() if int(app.rsplit("/", 1)[1]) not in partitions}
        self._checked &= self._known.keys()

    def history(self, commits: int) -> list[dict[str, Any]]:
        """What the newest commits say of themselves: `timestamp` in milliseconds since the epoch, and their metadata."""
        told: list[dict[str, Any]] = self._handle.history(commits)
        return told

    @property
    def version(self) -> int:
        """Version of the table that this handle sees."""
        return int(self._handle.version())

    def read(self, *, columns: Sequence[str], where: pc.Expression | None = None) -> pl.DataFrame:
        """Rows as they stand in this snapshot, in no order."""
        dataset = dataset_of(self._handle)
        frame = pl.from_arrow(dataset.to_table(columns=list(columns), filter=where))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def _check(self, app: str) -> None:
        known, now = self.position(app), self._read_position(app)
        if known != now:
            raise Fenced(
                f"{self.path}: position {app} is {now}, not {known} as this writer left it; another one writes: stop one of the two"
            )

    def _read_position(self, app: str) -> int | None:
        number = self._handle.transaction_version(app)
        return None if number is None else int(number)


def open_table(path: Path, *, schema: pa.Schema | None) -> PositionedTable:
    """Opens a table; makes an empty one of this schema where there is none and a schema is given.

    Raises TableError if it is absent (and no schema is given), can't be read, or has other columns.
    """
    try:
        if schema is not None:
            path.mkdir(parents=True, exist_ok=True)
            pruned = ",".join(name for name in _STATISTICS if name in schema.names)
            columns = {"delta.dataSkippingStatsColumns": pruned} if pruned else {"delta.dataSkippingNumIndexedCols": "0"}
            deltalake.DeltaTable.create(path, schema=schema, mode="ignore", configuration=columns)
        handle = deltalake.DeltaTable(path)
    except TableNotFoundError as error:
        raise TableError(f"{path}: no table; start `attribution run`, or give the directory that was its --out") from error
    except (DeltaError, OSError) as error:
        raise TableError(f"{path}: cannot be opened as a table ({error}); give another --out") from error
    if schema is not None:
        _add_new_columns(handle, schema=schema)
        _refuse_other_columns(handle, schema=schema, path=path)
    return PositionedTable(handle, path=path)


def _writing(schema: pa.Schema) -> deltalake.WriterProperties:
    """How an append is written: half the CPU of the defaults, which build a dictionary and statistics of every column.

    Statistics only where reads are pruned by them. Compaction writes the files that are kept.
    """
    pruned = {name: _PRUNED for name in _STATISTICS if name in schema.names}
    return deltalake.WriterProperties(compression="SNAPPY", default_column_properties=_PLAIN, column_properties=pruned)


def _add_new_columns(handle: Any, *, schema: pa.Schema) -> None:
    """A table of an older version gets the columns that it lacks; its old rows have null there."""
    known = set(handle.to_pyarrow_dataset().schema.names)
    if known and known < set(schema.names):
        lacking = pa.schema([field for field in schema if field.name not in known])
        handle.alter.add_columns(deltalake.Schema.from_arrow(lacking).fields)


def _refuse_other_columns(handle: Any, *, schema: pa.Schema, path: Path) -> None:
    found = handle.to_pyarrow_dataset().schema.names
    if set(found) != set(schema.names):
        other = ", ".join(sorted(set(found) ^ set(schema.names)))
        raise TableError(f"{path}: columns differ from this version's: {other}; give another --out and backfill into it")
