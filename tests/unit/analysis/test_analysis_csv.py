"""CSV files are read whole or not at all: no row is dropped, padded or taken for a preamble."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fairtrial.analysis.foreign import analyze
from fairtrial.analysis.foreign_csv import DataError, read_header
from fairtrial.model.view import ExperimentView

HEADER = "user,arm,bought\n"


def rows(count: int, first: int = 0, end: str = "") -> str:
    return "".join(f"{n},{'AB'[n % 2]},{int(n % 5 == 0)}{end}\n" for n in range(first, first + count))


def ask(path: Path) -> ExperimentView:
    # The last column is not asked for: a row must fit whether or not its fault is in a column that is read.
    return analyze(path, unit="user", variant="arm", control="A", metrics=["conv=proportion(bought)"])


def written(folder: Path, text: str | bytes, name: str = "units.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def units_of(folder: Path, text: str | bytes, name: str = "units.csv") -> int:
    return sum(variant.units for variant in ask(written(folder, text, name)).variants)


def test_a_second_table_in_the_file_is_an_error_and_not_the_table(tmp_path: Path) -> None:
    second = "user,arm,bought,amount\n" + rows(300, 300, ",2.5")
    with pytest.raises(DataError, match="row 301 has 4 fields, the header has 3"):
        ask(written(tmp_path, HEADER + rows(300) + second))


def test_the_same_header_again_is_a_bad_value(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'bought' in row 301"):
        ask(written(tmp_path, HEADER + rows(300) + HEADER + rows(300, 300)))


FAULTS = {
    "short": ("7,A\n", "row 301 has 2 fields, the header has 3"),
    "long": ("7,A,1,1\n", "row 301 has 4 fields, the header has 3"),
    "one": ("7\n", "row 301 has 1 field, the header has 3"),
    "open quote": ('"7,A,1\n', "row 301: .*quote never closed"),
    "after a quote": ('"7"x,A,1\n', "row 301: "),
    "not UTF-8": ("caf\udce9,A,1\n", "row 301 is not UTF-8"),
    "line end": ("7,A,1\r\n", "mixes line ends"),
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.parametrize("total", [300, 30_000])
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, case: str, total: int) -> None:
    row, message = FAULTS[case]
    text = HEADER + rows(300) + row + rows(total, 1000)
    with pytest.raises(DataError, match=message):
        ask(written(tmp_path, text.encode(errors="surrogateescape")))


def test_a_fault_after_a_quoted_line_break_is_counted_in_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 3 has 2 fields"):
        ask(written(tmp_path, HEADER + '"a\nb",A,1\nc,B,0\nd,B\n'))


GOOD = {
    "plain": (HEADER + rows(300), 300),
    "quoted line breaks": (HEADER + rows(300) + '"a\nb",A,1\n"c ""d""\n",B,0\n', 302),
    "byte-order mark": ("\ufeff" + HEADER + rows(300), 300),
    "CRLF": ((HEADER + rows(300)).replace("\n", "\r\n"), 300),
    "CR": ((HEADER + rows(300)).replace("\n", "\r"), 300),
    "semicolons": ((HEADER + rows(300)).replace(",", ";"), 300),
    "tabs": ((HEADER + rows(300)).replace(",", "\t"), 300),
    "bars": ((HEADER + rows(300)).replace(",", "|"), 300),
    "empty last lines": (HEADER + rows(300) + "\n\n\n", 300),
    "empty last CRLF lines": ((HEADER + rows(300) + "\n\n").replace("\n", "\r\n"), 300),
    "empty lines between": (HEADER + rows(100) + "\n" + rows(100, 100), 200),
    "no last line end": (HEADER + rows(300).rstrip("\n"), 300),
    "quoted header": ('"user","arm","bought"\n' + rows(300), 300),
    "spaces in the header": ("user, arm, bought\n" + rows(300), 300),
    "odd names": ('user,arm,bought,it\'s "odd"\n' + rows(300, end=",x"), 300),
    "an index without a name": (",user,arm,bought\n" + "".join(f"0,{row}\n" for row in rows(300).split()), 300),
    "a late change of kind": (HEADER + rows(30_000) + rows(3, 90_000).replace("9000", "x"), 30_003),
}


@pytest.mark.parametrize("case", GOOD)
def test_every_row_is_read(tmp_path: Path, case: str) -> None:
    text, units = GOOD[case]
    assert units_of(tmp_path, text) == units


def test_a_compressed_file_is_read_too(tmp_path: Path) -> None:
    assert units_of(tmp_path, gzip.compress((HEADER + rows(300)).encode()), "units.csv.gz") == 300


@pytest.mark.parametrize("content", [gzip.compress((HEADER + rows(3000)).encode())[:-2000], b"user,arm\n1,A\n"])
def test_a_torn_compressed_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError):
        ask(written(tmp_path, content, "units.csv.gz"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 is empty"),
        ("\n" + HEADER + rows(10), "line 1 is empty"),
        ("user,arm,bought,arm\n" + rows(10, end=",A"), "names column 'arm' 2 times"),
        ("user,arm,bought,Arm\n" + rows(10, end=",A"), "names column 'arm' 2 times"),
        ((HEADER + rows(10)).encode("utf-16"), "no CSV file in UTF-8"),
    ],
)
def test_a_first_line_that_names_no_columns_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ask(written(tmp_path, text))


def test_a_comma_inside_a_name_does_not_choose_the_delimiter(tmp_path: Path) -> None:
    assert read_header(written(tmp_path, "user;arm;amount, EUR\n1;A;2\n")) == (["user", "arm", "amount, EUR"], ";")
