"""CSV files, read strictly: the first line names the columns, and every row has as many fields.

DuckDB's sniffer is made for files that nobody has described. Shown two tables one after the other it takes the first
for a preamble and reads half of the file in silence, so here it decides nothing: the delimiter comes from the first
line, and a row that does not fit is an error that names it.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

from fairtrial.model.errors import FairtrialError

DELIMITERS: Final = (",", ";", "\t", "|")
MOST_HEADER_CHARS: Final = 1 << 20
_TORN: Final = (gzip.BadGzipFile, EOFError, zlib.error)


class DataError(FairtrialError):
    """The table holds something that cannot be analysed; the message names column and row (1 is the first data row)."""


def csv_reader(path: Path) -> str:
    """SQL that reads the file, all columns as text. Raises DataError where the first line names no columns."""
    names, delimiter = read_header(path)
    columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv({_text(str(path))}, auto_detect = false, header = true, skip = 0, delim = {_text(delimiter)}, "
        f"quote = '\"', escape = '\"', strict_mode = true, null_padding = false, ignore_errors = false, "
        f"columns = {{{columns}}})"
    )


def read_header(path: Path) -> tuple[list[str], str]:
    """The columns, and the delimiter: the one that finds most of them. A column without a name is `columnN`, from 0."""
    try:
        with _open(path) as file:
            text = file.read(MOST_HEADER_CHARS)
        found = [(next(csv.reader(io.StringIO(text, ""), delimiter=mark), []), mark) for mark in DELIMITERS]
    except (csv.Error, *_TORN) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}") from error
    fields, delimiter = max(found, key=lambda candidate: len(candidate[0]))
    if not _is_utf8(fields):
        raise DataError(f"{path} is no CSV file in UTF-8; save it as one")
    names = [field.strip() or f"column{place}" for place, field in enumerate(fields)]
    if not any(field.strip() for field in fields):
        raise DataError(f"{path}: line 1 is empty; it must name the columns")
    folded = [name.casefold() for name in names]
    for name in names:
        if folded.count(name.casefold()) > 1:
            raise DataError(f"{path}: line 1 names column '{name}' {folded.count(name.casefold())} times")
    return names, delimiter


def explain(path: Path) -> str | None:
    """What is wrong with a file that DuckDB refused; None where nothing can be found. Reads up to the fault."""
    names, delimiter = read_header(path)
    row = 0
    try:
        for row, fields in enumerate(_rows(path, delimiter)):
            if len(fields) != len(names):
                return f"row {row} has {_counted(len(fields))}, the header has {len(names)}"
            if not _is_utf8(fields):
                return f"row {row} is not UTF-8"
    except csv.Error as error:
        return f"row {row + 1}: {error}; is a quote never closed?"
    except _TORN as error:
        return str(error)
    return "it mixes line ends (CRLF and LF)" if _mixes_line_ends(path) else None


def _rows(path: Path, delimiter: str) -> Iterator[list[str]]:
    """The header and every row; empty lines are no rows."""
    with _open(path) as file:
        yield from (fields for fields in csv.reader(file, delimiter=delimiter, strict=True) if fields)


def _mixes_line_ends(path: Path) -> bool:
    with _open(path) as file:
        ends = {line[len(line.rstrip("\r\n")) :] for line in file}
    return len(ends - {""}) > 1


def _open(path: Path) -> TextIO:
    """Line ends are kept; a byte-order mark is not. Bytes that are not UTF-8 are kept as what cannot be encoded."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _is_utf8(fields: list[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True


def _counted(fields: int) -> str:
    return f"{fields} field" + ("" if fields == 1 else "s")


def _text(text: str) -> str:
    """A quoted SQL string."""
    return "'" + text.replace("'", "''") + "'"
