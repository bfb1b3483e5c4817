"""Any Delta table as an Arrow dataset, for rooms that read tables and know nothing of their log."""

from pathlib import Path

import deltalake
import pyarrow.dataset as ds

from protos.errors import ObservationsError

__all__ = ["delta_dataset"]


def delta_dataset(table: Path | str) -> ds.Dataset:
    """The table's latest version. Raises ObservationsError where there is none."""
    try:
        return deltalake.DeltaTable(str(table)).to_pyarrow_dataset()
    except (deltalake.exceptions.DeltaError, OSError) as error:
        said = str(error).splitlines()[0]
        raise ObservationsError(f"{table}: cannot be read as a Delta table ({said}); give the folder of one") from error
