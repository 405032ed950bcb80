"""Tables of events and of features: RecBole's tab-separated files, CSV and Parquet, with errors that name the row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsysml.errors import ConfigError, DataError
from recsysml.files import data_dir, sha256

if TYPE_CHECKING:
    import polars

_TABS = (".inter", ".item", ".user", ".tsv")
SUFFIXES = (*_TABS, ".csv", ".parquet")


def find(name: str, key: str, given: str) -> Path:
    """The file `given` in the working directory, else in $RECSYSML_DATA. DataError: missing; ConfigError: no table."""
    path = find_file(name, given)
    if _suffix(path) not in SUFFIXES:
        raise ConfigError(f"{key}: {path} is none of {', '.join(SUFFIXES)}, gzipped or not")
    return path


def find_file(name: str, given: str) -> Path:
    """The file `given` in the working directory, else in $RECSYSML_DATA. Raises DataError where it is missing."""
    path, shared = Path(given).expanduser(), data_dir()
    for candidate in (path, *([shared / path] if shared else [])):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise DataError(f"{name}: {given} is a folder: give a file in it")
    if path.is_absolute():
        raise DataError(f"{name}: there is no file {given}")
    if shared:
        raise DataError(f"{name}: {given} is neither here nor in {shared} (RECSYSML_DATA)")
    raise DataError(f"{name}: {given} is missing: set RECSYSML_DATA to the folder that holds it")


def verify(path: Path, expected: str | None) -> None:
    """Raises DataError for a file that is not the known one: cut off on the way, or changed."""
    if expected and sha256(path) != expected:
        raise DataError(
            f"{path} has a wrong checksum (cut off, or changed): get it anew, or data.sha256=null takes it as it is"
        )


def columns(path: Path, given: Sequence[str] = ()) -> dict[str, str]:
    """Column -> its name in the file: a RecBole header adds a type, as in `user_id:token`. Reads the header only.

    given: the names of a file without a header. Raises DataError where it has another number of columns.
    """
    try:
        header = _scan(path, header=not given).collect_schema().names()
    except Exception as error:  # polars has many; the first line says which
        raise DataError(f"{path} cannot be read: {_first_line(error)}") from error
    if given:
        if len(given) != len(header):
            raise DataError(f"{path} has {len(header)} columns, and data.columns names {len(given)}")
        return dict(zip(given, header, strict=True))
    atomic = _suffix(path) in (".inter", ".item", ".user")
    return {name.partition(":")[0] if atomic else name: name for name in header}


def need(path: Path, wanted: dict[str, str], given: Sequence[str] = ()) -> None:
    """Raises DataError where the file lacks a column; wanted: column -> the key that names it."""
    names = columns(path, given)
    for column, key in wanted.items():
        if column not in names:
            there = ", ".join(name if name.isprintable() else repr(name) for name in names)
            raise DataError(f"{path} has no column {column!r} ({key}); it has {there:.300}")


def read(path: Path, wanted: Iterable[str], given: Sequence[str] = ()) -> polars.DataFrame:
    """These columns, under these names, as they are: text, but for Parquet. Raises DataError for a damaged file.

    given: the names of a file without a header.
    """
    names = columns(path, given)
    wanted = list(dict.fromkeys(wanted))
    try:
        rows = _scan(path, header=not given).select([names[column] for column in wanted]).collect()
    except Exception as error:
        said = "" if path.suffix == ".parquet" else _bad_row(path, header=not given)
        raise DataError(f"{path} cannot be read: {said or _first_line(error)}") from error
    rows.columns = wanted
    return rows


def read_events(path: Path, user: str, item: str, time: str) -> polars.DataFrame:
    """Events as columns user, item (text), time (seconds) and row (from 1), in the file's order.

    Raises DataError with the number of the first row that has no id or no time.
    """
    if len({user, item, time}) < 3:
        raise ConfigError(f"{path}: user, item and time must be three columns, not {user}, {item} and {time}")
    return as_events(read(path, (user, item, time)), path)


def as_events(rows: polars.DataFrame, path: Path) -> polars.DataFrame:
    """What `read_events` gives, from the three columns user, item and time under the file's names for them."""
    user, item, time = rows.columns
    for name, dtype in rows.schema.items():
        if dtype.is_nested():
            raise DataError(f"{path}: column {name!r} holds {dtype}, where each row should hold one value")
    raw = rows
    rows = rows.rename({user: "user", item: "item", time: "time"})
    rows = rows.with_columns(id_texts(rows["user"]), id_texts(rows["item"]), seconds(rows["time"]))
    bad = {
        user: (rows["user"] == "").fill_null(True),
        item: (rows["item"] == "").fill_null(True),
        time: ~rows["time"].is_finite().fill_null(False),
    }
    first = {int(series.arg_max() or 0): name for name, series in reversed(bad.items()) if series.any()}
    if first:
        where = min(first)
        column = raw[first[where]]
        found = f": {column[where]!r}" if column[where] not in (None, "") else ""
        why = " (an id is a whole number or a text)" if first[where] != time and found else ""
        raise DataError(f"{path} row {where + 1} has no usable {first[where]!r}{found}{why}")
    if rows.is_empty():
        raise DataError(f"{path} holds no events")
    return rows.with_row_index("row", offset=1)


def read_features(path: Path, id_column: str, ids: list[str], wanted: Iterable[str]) -> polars.DataFrame:
    """The rows of `ids`, in their order, null where the table has none.

    Raises DataError where an id stands in two rows, or the table has none of them at all.
    """
    import polars as pl

    rows = read(path, (id_column, *wanted))
    rows = rows.with_columns(id_texts(rows[id_column]))
    twice = rows[id_column].is_duplicated() & rows[id_column].is_not_null()
    if twice.any():
        where = int(twice.arg_max() or 0)
        raise DataError(f"{path} row {where + 1}: {id_column}={rows[id_column][where]} stands in more than one row")
    if not rows[id_column].is_in(ids).any():
        has = f"it has {rows[id_column][0]!r} and the like" if len(rows) else "it is empty"
        raise DataError(f"{path} has a row for none of the ids in {id_column!r} of the events, as {ids[0]!r}: {has}")
    return pl.DataFrame({id_column: ids}, schema={id_column: pl.String}).join(
        rows, on=id_column, how="left", maintain_order="left"
    )


def read_dat(path: Path, names: Iterable[str]) -> polars.DataFrame:
    """A MovieLens .dat file: Latin-1, `::` between columns, no header. Columns of text, null where a row is short."""
    import polars as pl

    names = list(names)
    content = read_bytes(path).decode("latin-1").replace("::", "\t")
    try:
        return pl.read_csv(
            content.encode(), separator="\t", quote_char=None, has_header=False, schema=dict.fromkeys(names, pl.String)
        )
    except Exception as error:
        said = _unlike(content.split("\n"), len(names)) or _first_line(error)
        raise DataError(f"{path} cannot be read: {said}") from error


def read_bytes(path: Path) -> bytes:
    """A file's content, unpacked where its name ends in .gz. Raises DataError for one that is cut off."""
    parts: list[bytes] = []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            parts.extend(iter(lambda: file.read(1 << 16), b""))
    except (OSError, EOFError, zlib.error) as error:
        line = sum(part.count(b"\n") for part in parts) + 1
        raise DataError(f"{path} cannot be read beyond line {line} or so (cut off?): {_first_line(error)}") from error
    return b"".join(parts)


def read_lines(path: Path) -> polars.Series:
    """The lines of a text file as lists of words. Raises DataError for one that is cut off or no UTF-8."""
    import polars as pl

    content = read_bytes(path)
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} row {row} is not UTF-8 text") from error
    return pl.Series("words", lines, dtype=pl.String).str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path} is no JSON (cut off?): {_first_line(error)}") from error


def seconds(values: polars.Series) -> polars.Series:
    """Numbers as they are; dates and texts such as 2019-11-24 00:01:03 as seconds since 1970; null where neither."""
    import polars as pl

    if values.dtype.is_temporal():
        return values.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if values.dtype != pl.String:
        return values.cast(pl.Float64, strict=False)
    numbers = values.cast(pl.Float64, strict=False)
    if numbers.null_count() < len(values):
        return numbers
    try:
        return values.str.to_datetime(time_unit="us", strict=False).dt.epoch("us") / 1e6
    except pl.exceptions.ComputeError:  # not one of them is a date
        return numbers


def id_texts(ids: polars.Series) -> polars.Series:
    """Ids as texts. Of a column of floats, as pandas makes of integers with gaps, 1.0 is "1"; what is no whole number,
    or so great that others have become it, is null."""
    import polars as pl

    if ids.dtype.is_float():
        whole = (ids == ids.floor()) & (ids.abs() <= (1 << 53 if ids.dtype == pl.Float64 else 1 << 24))
        ids = ids.set(~whole.fill_null(False), None).cast(pl.Int64)
    return ids.cast(pl.String)


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _scan(path: Path, *, header: bool = True) -> polars.LazyFrame:
    """The file with text columns, so that an id or a time that looks odd is ours to name."""
    import polars as pl

    if path.suffix == ".parquet":
        return pl.scan_parquet(path)
    if _suffix(path) in _TABS:
        return pl.scan_csv(path, separator="\t", quote_char=None, has_header=header, infer_schema=False)
    return pl.scan_csv(path, has_header=header, infer_schema=False)


def _bad_row(path: Path, *, header: bool) -> str:
    """What is wrong with the first row of text that a table cannot hold; empty where nothing is found."""
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + (not header)
        return f"row {row} is not UTF-8 text" if row else "its header is not UTF-8 text"
    if _suffix(path) in _TABS:
        return _unlike(text.split("\n"), header=header)
    row = 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        width = len(next(reader, []))
        for row, fields in enumerate(reader, 1 if header else 2):
            if len(fields) > width:
                return f"row {row} has {len(fields)} fields, and there are {width} columns"
    except csv.Error as error:
        return f"row {row + 1}: {error} (is a quote left open?)"
    return ""


def _unlike(lines: Sequence[str], width: int = 0, *, header: bool = False) -> str:
    """Names the first of tab-separated lines that has more fields than `width`, or than the first line has."""
    width = width or lines[0].count("\t") + 1
    found = next((row for row, line in enumerate(lines, 0 if header else 1) if line.count("\t") >= width), None)
    return "" if found is None else f"row {found} has more fields than the {width} there should be"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
