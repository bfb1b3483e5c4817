"""Any Delta table as an Arrow dataset, for rooms that read tables and know nothing of their log."""

import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import deltalake
import pyarrow.dataset as ds
import pyarrow.fs

from protos.errors import ObservationsError

__all__ = ["dataset_of", "delta_dataset"]


def delta_dataset(table: Path | str) -> ds.Dataset:
    """The table's latest version. Raises ObservationsError where there is none."""
    try:
        return dataset_of(deltalake.DeltaTable(str(table)))
    except (deltalake.exceptions.DeltaError, OSError) as error:
        said = str(error).splitlines()[0]
        raise ObservationsError(f"{table}: cannot be read as a Delta table ({said}); give the folder of one") from error


def dataset_of(handle: Any) -> ds.Dataset:
    """The version that an open deltalake.DeltaTable sees. A table on a local disk is read by Arrow itself.

    deltalake's own file system is written in Python and called from Arrow's threads: a thread that still lets go of a file when the
    process ends aborts it ("terminate called without an active exception").
    """
    place = urllib.parse.urlsplit(handle.table_uri)
    if place.scheme not in ("", "file"):
        return handle.to_pyarrow_dataset()
    root = urllib.request.url2pathname(place.path)
    return handle.to_pyarrow_dataset(filesystem=pyarrow.fs.SubTreeFileSystem(root, pyarrow.fs.LocalFileSystem()))
