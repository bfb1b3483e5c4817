"""Whether a log takes records, told to whoever shows the server's health: callers go elsewhere while it does not."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import LogUnavailable

__all__ = ["LogHealth"]

_logger = logging.getLogger(__name__)


class LogHealth:
    """Notes how each append ends, and calls `tell` when that changes. Thread-safe."""

    def __init__(self, name: str, tell: Callable[[bool], None] = lambda takes: None) -> None:
        """`tell`: the log of that name takes records (true), or takes none."""
        self._name, self._tell = name, tell
        self._lock = threading.Lock()
        #: Did the last append go through?
        self.takes = True

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around one append."""
        try:
            yield
        except LogUnavailable as error:
            self._note(False, str(error))
            raise
        self._note(True, "")

    def _note(self, takes: bool, why: str) -> None:
        if takes == self.takes:
            return
        with self._lock:
            if takes == self.takes:
                return
            self.takes = takes
            self._tell(takes)
        _logger.log(
            logging.INFO if takes else logging.ERROR, "log %s: %s", self._name, "takes records again" if takes else f"takes none: {why}"
        )
