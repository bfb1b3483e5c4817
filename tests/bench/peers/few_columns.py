"""The two tables of a joiner that writes what it has at hand: a message and its kind, and five columns of a row."""

import deltalake
import pyarrow as pa

__all__ = ["EVENTS", "ROWS", "WRITING"]

EVENTS = pa.schema(
    [("topic", pa.string()), ("partition", pa.int32()), ("offset", pa.int64()), ("kind", pa.string()), ("payload", pa.binary())]
)
ROWS = pa.schema(
    [("decision_id", pa.binary()), ("unit_id", pa.string()), ("action", pa.string()), ("seen", pa.bool_()), ("reward", pa.float64())]
)
# What costs a writer least: neither a dictionary nor statistics of any column (ours keeps those that its reads need).
_PLAIN = deltalake.ColumnProperties(dictionary_enabled=False, statistics_enabled="NONE")
WRITING = deltalake.WriterProperties(compression="SNAPPY", default_column_properties=_PLAIN)
