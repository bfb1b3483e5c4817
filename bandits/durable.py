"""Files that appear whole or not at all, and survive a power cut. Touches the disk; knows nothing of what the files mean."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bandits.errors import StoreError

__all__ = ["append_line", "make_folder", "read_json", "read_lines", "read_record", "sync_names", "write_whole"]

RecordT = TypeVar("RecordT", bound=tuple[Any, ...])


def make_folder(path: Path) -> None:
    """The folder, with those above it. Raises StoreError where the disk refuses it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"store: {path} cannot be made a folder ({error}); give a directory that may be written") from error


def write_whole(path: Path, data: bytes) -> None:
    """Replaces a file in one step: readers see the old content or the new."""
    make_folder(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(name).chmod(0o644)
    Path(name).rename(path)
    sync_names(path.parent)


def sync_names(directory: Path) -> None:
    """Makes the names in a directory survive a power cut, as fsync of a file does its content."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Appends a line; one that a power cut tore before stays a line of its own."""
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        torn = bool(end and file.seek(end - 1) >= 0 and file.read(1) != b"\n")
        file.write(b"\n" * torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[str]:
    """The lines of a file, empty ones left out; none where there is no file."""
    return [line for line in path.read_text(errors="replace").split("\n") if line] if path.exists() else []


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file. Raises StoreError for any other content."""
    try:
        loaded = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as JSON ({error}); restore it from the audit log") from error
    if not isinstance(loaded, dict):
        raise StoreError(f"{path}: holds no object; restore it from the audit log")
    return loaded


def read_record(path: Path, kind: Callable[..., RecordT]) -> RecordT | None:
    """The named tuple in a JSON file, None where there is no file. Raises StoreError for other fields than it has."""
    data = read_json(path)
    try:
        return None if data is None else kind(**data)
    except TypeError as error:
        raise StoreError(f"{path}: has other fields than it needs ({error}); restore it from the audit log") from error
