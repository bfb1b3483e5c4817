"""What can be wrong with a message, a log file or a config.

ProtosError
├── ConfigError          a file that a user wrote, or a flag
├── FramingError         bytes that should have been a log record
├── ObservationsError    an observations table that cannot be read as asked
└── UnitFeaturesError    a table of unit features that cannot be read, or is not what its manifest says
"""

__all__ = ["ConfigError", "FramingError", "ObservationsError", "ProtosError", "UnitFeaturesError"]


class ProtosError(Exception):
    """Root of this room's errors. The message names the field, the value and the remedy."""


class ConfigError(ProtosError):
    """A config names an unknown key, lacks a needed one, or has a value out of range."""


class FramingError(ProtosError):
    """Bytes at a position of a log are no record."""


class ObservationsError(ProtosError):
    """A table of observations is absent, or lacks what was asked of it."""


class UnitFeaturesError(ProtosError):
    """A version of the unit features cannot be read, or is not what its manifest says."""
