"""A bar on stderr that counts rows while batches are read; only on a terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ope.rows import Batch

__all__ = ["bar_on", "counted"]

_Rows = TypeVar("_Rows", Batch, tuple[Batch, Batch])


def bar_on(console: Console) -> Progress:
    """A bar with its numbers, which leaves no trace; silent where the console is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def counted(batches: Iterable[_Rows], *, rows: int | None) -> Iterator[_Rows]:
    """The batches (or pairs of them); `rows` in all, None where nobody knows before the end."""
    with bar_on(Console(stderr=True)) as progress:
        bar = progress.add_task("rows", total=rows)
        for batch in batches:
            yield batch
            progress.advance(bar, len((batch if isinstance(batch, Batch) else batch[0]).reward))
