"""Where records come from: one small interface, one implementation a transport."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from attribution.events import Raw, Raws

__all__ = ["Fetched", "Offsets", "Partition", "Source"]


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int


# Next offset to read. A partition that is absent has never been read: it begins at the oldest record there is.
Offsets = Mapping[Partition, int]


class Fetched(NamedTuple):
    """Records, in order within each partition, and the offsets at which the next fetch begins.

    `full`: a bound of the fetch was reached, so that more may be waiting.
    """

    raws: Sequence[Raw] | Raws
    offsets: Offsets
    full: bool = False


class Source(Protocol):
    """A transport. Reading is a function of the offsets; what is committed back is only for those who watch the lag."""

    @property
    def shared(self) -> bool:
        """True = the partitions are shared out among several workers, and `partitions` changes."""

    def partitions(self) -> Sequence[Partition]:
        """Every partition that is read. Asked before each micro-batch."""

    def fetch(self, offsets: Offsets) -> Fetched:
        """What follows the offsets, at most a micro-batch; nothing where nothing has come. Raises SourceError."""

    def commit(self, offsets: Offsets) -> None:
        """Tells the transport how far we are."""

    def end_offsets(self) -> Offsets:
        """Offset just behind the last record of each partition."""

    def close(self) -> None:
        """Lets connections go."""
