"""Requests and answers of the two inference protocols, and handwritten digits to ask about."""

from __future__ import annotations

import gzip
import math
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, cast

import httpx

HELD_OUT_FROM = 900  # the models of the how-to pages are trained on the rows before

Row = list[float]
Answer = dict[str, Any]


def held_out_rows(count: int) -> list[Row]:
    """The first `count` digits that no model has seen: 64 numbers each.

    Read from scikit-learn's own file, because importing scikit-learn takes seconds of every test process.
    """
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as lines:
        rows = islice(lines, HELD_OUT_FROM, HELD_OUT_FROM + count)
        return [[float(number) for number in row.split(",")[:64]] for row in rows]


def v1_body(rows: list[Row]) -> Answer:
    return {"instances": rows}


def v2_body(rows: list[Row]) -> Answer:
    data = [number for row in rows for number in row]
    tensor = {"name": "image", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": data}
    return {"inputs": [tensor]}


def v1_digits(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return cast(list[int], answer.json()["predictions"])


def v2_digits(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return cast(list[int], answer.json()["outputs"][0]["data"])


def is_plausible(count: int, *, users: int, share: float) -> bool:
    """True within five standard deviations of a coin of that weight: further off once in a million fair splits."""
    return abs(count - users * share) <= 5 * math.sqrt(users * share * (1 - share))
