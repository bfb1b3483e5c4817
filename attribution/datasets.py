"""SQL over the tables, and ready-made datasets as views, through DuckDB. Touches the tables.

observations        the latest revision of each decision
exposures           one row a slot: what stood there, with what propensity, whether and how often it was shown, its reward
action_daily        by task, day and action: decided, seen, reward of the seen slots
events              every landed event; signals: its signals, each event id once
unit_activity(at_us, window_s)
                    by unit and signal, over the window that ends at `at_us`: count, sum, last value and its time. To serve from:
                    `attribution unit-features`. A window of which events have expired is an error, not a smaller count
"""

import glob
from pathlib import Path

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from attribution.errors import QueryError
from attribution.positions import EVENTS_EXPIRED
from attribution.tables import EVENTS_DIR, OBSERVATIONS_DIR, open_table
from protos.delta_tables import dataset_of

__all__ = ["VIEWS", "query", "write_rows"]

VIEWS = ("observations", "exposures", "action_daily", "events", "signals")
_DEFINITIONS = """
CREATE VIEW observations AS
  SELECT * FROM revisions QUALIFY row_number() OVER (PARTITION BY decision_id ORDER BY revision DESC) = 1;
CREATE VIEW exposures AS
  SELECT tenant, task, unit_id, decision_id, decision_time_us, policy, snapshot_digest, status, overridden,
         generate_subscripts(slot_action, 1) - 1 AS slot, unnest(slot_action) AS action, unnest(slot_propensity) AS propensity,
         unnest(slot_seen) AS seen, unnest(slot_seen_time_us) AS seen_time_us, unnest(slot_reward) AS reward,
         len(exposure_times_us) AS times_shown
  FROM observations;
CREATE VIEW action_daily AS
  SELECT tenant, task, CAST(make_timestamp(decision_time_us) AS DATE) AS day, action, count(*) AS decided,
         count(*) FILTER (WHERE seen) AS seen, sum(reward) FILTER (WHERE seen) AS reward
  FROM exposures WHERE NOT overridden GROUP BY ALL;
CREATE VIEW signals AS
  SELECT DISTINCT ON (tenant, unit_id, event_id) tenant, unit_id, event_id, name, coalesce(value, 1.0) AS value, event_time_us
  FROM events WHERE kind = 'signal' AND fault IS NULL ORDER BY append_time_us;
CREATE MACRO unit_activity(at_us, window_s) AS TABLE
  SELECT tenant, unit_id, name, count(*) AS count, sum(value) AS sum, arg_max(value, event_time_us) AS last,
         max(event_time_us) AS last_time_us
  FROM signals WHERE event_time_us < at_us AND event_time_us >= whole_since(at_us - CAST(window_s * 1e6 AS BIGINT)) GROUP BY ALL;
"""
# A window is whole where nothing of it has expired.
_WHOLE_SINCE = """
CREATE MACRO whole_since(begins_us) AS CASE WHEN begins_us >= {expired_us} THEN begins_us
  ELSE error('the window begins at ' || begins_us || ' us, and events before {expired_us} us have expired; ask for a shorter one') END;
"""


def query(out: Path, sql: str) -> pa.Table:
    """The result of one SELECT over VIEWS. Raises QueryError with DuckDB's own words, TableError where there are no tables."""
    open_table(out / OBSERVATIONS_DIR, schema=None)
    expired_us = open_table(out / EVENTS_DIR, schema=None).position(EVENTS_EXPIRED) or 0
    with duckdb.connect() as database:
        _attach(database, "events", out / EVENTS_DIR)
        _attach(database, "revisions", out / OBSERVATIONS_DIR)
        try:
            database.execute(_WHOLE_SINCE.format(expired_us=expired_us) + _DEFINITIONS)
            rows = database.sql(sql)
            found = None if rows is None else rows.to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(f"query: {error}; tables: {', '.join(VIEWS)}, unit_activity(at_us, window_s)") from error
        if found is None:
            raise QueryError("query: gave no rows; give one SELECT")
        return found


def _attach(database: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    """A table's latest version as a view over its files, with DuckDB's own reader.

    As an Arrow dataset it would be asked with DuckDB's conditions, and Arrow can't compare strings in a file that a compaction or a
    deletion has rewritten (see `tables.text`).
    """
    dataset = dataset_of(deltalake.DeltaTable(path))
    database.register(f"no_{name}", dataset.schema.empty_table())
    files = ", ".join("'" + glob.escape(str(path / file)).replace("'", "''") + "'" for file in dataset.files)
    rows = f" UNION ALL BY NAME SELECT * FROM read_parquet([{files}], union_by_name = true)" if files else ""
    database.execute(f"CREATE VIEW {name} AS SELECT * FROM no_{name}{rows}")


def write_rows(rows: pa.Table, file: Path) -> None:
    """Writes a result as Parquet or CSV, by the file's name. Raises QueryError for another name."""
    if file.suffix == ".parquet":
        pq.write_table(rows, file)
    elif file.suffix == ".csv":
        csv.write_csv(rows, file)
    else:
        raise QueryError(f"--to {file}: give a name that ends in .parquet or .csv")
