"""Reads a table of a user: CSV (also compressed; by comma, semicolon, tab or bar) or Parquet. Touches the disk; knows no column."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from bandits.errors import SimulationError

__all__ = ["read_table"]

_PARQUET = (".parquet", ".pq")
# Only an empty field is missing: words like "NA" or "?" are levels of a category (mushroom has a "?").
_NULLS = ["", "nan", "NaN"]
# Bytes of a file whose first line tells what separates its columns.
_FIRST = 1 << 16
# A number with a decimal comma, which files by semicolon have.
_DECIMAL_COMMA = r"^\s*[+-]?[0-9]+(,[0-9]+)?\s*$"
_CONVERTED = pyarrow.csv.ConvertOptions(null_values=_NULLS, strings_can_be_null=True)


def read_table(path: Path, *, header: bool = True) -> pa.Table:
    """The table in a file, told by its name: Parquet, or else CSV, unpacked where it ends in .gz or .bz2.

    Without a `header` the columns are named "0", "1", ... Raises SimulationError if the file cannot be read or has no rows.
    """
    try:
        table = pyarrow.parquet.read_table(path) if path.suffix.lower() in _PARQUET else _read_csv(path, header=header)
    except (OSError, pa.ArrowException) as error:
        raise SimulationError(f"data: {path} cannot be read ({error}); give a CSV or Parquet file") from error
    if table.num_rows == 0:
        raise SimulationError(f"data: {path} has no rows; give a table with at least one")
    if len(set(table.column_names)) < table.num_columns:
        double = next(name for name in table.column_names if table.column_names.count(name) > 1)
        raise SimulationError(f"data: {path}: column {double!r} stands twice; rename one, or read a file without header by --no-header")
    return table if header or path.suffix.lower() in _PARQUET else table.rename_columns([str(place) for place in range(table.num_columns)])


def _read_csv(path: Path, *, header: bool) -> pa.Table:
    separator = _separator(path)
    try:
        table = pyarrow.csv.read_csv(
            path, read_options=_reading(header), parse_options=pyarrow.csv.ParseOptions(delimiter=separator), convert_options=_CONVERTED
        )
    except pa.ArrowInvalid:
        table = _read_whole(path, separator, header=header)
    return _without_commas(table) if separator == ";" else table


def _separator(path: Path) -> str:
    """A comma, or what the first line has of `;`, tab and `|` where it has none."""
    with pa.input_stream(str(path)) as stream:
        line = stream.read(_FIRST).split(b"\n", 1)[0]
    return next((each for each in (",", ";", "\t", "|") if each.encode() in line), ",")


def _without_commas(table: pa.Table) -> pa.Table:
    """Words that are all numbers with decimal commas, as numbers."""
    for place, (name, values) in enumerate(zip(table.column_names, table.columns, strict=True)):
        if pa.types.is_string(values.type) and pc.all(pc.match_substring_regex(values, _DECIMAL_COMMA)).as_py():
            points = pc.replace_substring(pc.utf8_trim_whitespace(values), ",", ".")
            table = table.set_column(place, name, points.cast(pa.float64()))
    return table


def _read_whole(path: Path, separator: str, *, header: bool) -> pa.Table:
    """Types are guessed from all rows, not the first megabyte, which may hold whole numbers only; words may have line breaks."""
    with pa.input_stream(str(path)) as stream:
        text = stream.read()
    options = _reading(header)
    # Whole numbers of 32 bits count the bytes of a block.
    options.block_size = min(len(text) + 1, 2**31 - 2)
    quoted = pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter=separator)
    return pyarrow.csv.read_csv(pa.BufferReader(text), read_options=options, parse_options=quoted, convert_options=_CONVERTED)


def _reading(header: bool) -> pyarrow.csv.ReadOptions:
    return pyarrow.csv.ReadOptions(autogenerate_column_names=not header)
