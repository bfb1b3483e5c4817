"""What can go wrong in the join.

    AttributionError
    ├── SourceError     a log or a broker cannot be read as asked
    │   └── LostRecords     records between our offset and the oldest one there is are gone
    ├── RewardFunctionError     the user's own reward function is absent, or gives something else than rewards
    ├── ProducerError   events did not reach the broker
    ├── QueryError      a query is no SQL that the tables can answer
    └── TableError      a table cannot be opened, read or written
        └── Fenced          another writer has moved the table on: this one is a zombie and must stop

A message, a log file or a config that is wrong raises the errors of `protos.errors`. An event that is wrong raises nothing: it is
quarantined with a reason (see `admission.REASONS`).
"""

__all__ = ["AttributionError", "Fenced", "LostRecords", "ProducerError", "QueryError", "RewardFunctionError", "SourceError", "TableError"]


class AttributionError(Exception):
    """Root of this room's errors. The message names the field, the value and the remedy."""


class SourceError(AttributionError):
    """A log directory or a broker cannot be read as asked."""


class LostRecords(SourceError):
    """The source no longer holds the record at which reading was to go on."""


class RewardFunctionError(AttributionError):
    """The user's own reward function can't be loaded, or its result is no reward."""


class ProducerError(AttributionError):
    """Events did not reach the broker."""


class QueryError(AttributionError):
    """A query is refused by the database."""


class TableError(AttributionError):
    """A Delta table cannot be opened, read or written as asked."""


class Fenced(TableError):
    """Another writer has committed past the position that this one knows."""
