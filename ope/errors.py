"""What can go wrong in this room.

OpeError
├── RowsError        rows that no estimate can be made of: shape, NaN, a negative weight, a missing array
├── SourceError      a file or folder of logged data that cannot be read as asked
├── GateError        the gate has nothing to judge: no challenger, no champion, an unknown digest
└── VerdictError     a verdict that does not allow what was asked of it
"""

__all__ = ["GateError", "OpeError", "RowsError", "SourceError", "VerdictError"]


class OpeError(Exception):
    """Root of this room's errors. The message names the argument, the value and the remedy."""


class RowsError(OpeError):
    """Rows from which no estimate can be made."""


class SourceError(OpeError):
    """Logged data that cannot be read as asked."""


class GateError(OpeError):
    """The gate has nothing to judge, or cannot reach it."""


class VerdictError(OpeError):
    """A verdict is unreadable, or does not allow what was asked."""
