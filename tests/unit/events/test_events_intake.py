"""Bodies into records: the shapes that are read, what each item must be, and how each mistake is told."""

from __future__ import annotations

import json

import msgspec
import pytest

from fairtrial.events.intake import IntakeBatch, IntakeDecoder
from fairtrial.model.errors import RequestError
from fairtrial.model.records import ExposureRecord, OutcomeRecord
from fairtrial.model.units import UnitKeyer, unit_key

SECRET = bytes(range(32))
NOW = 1_760_000_000_000_000
JSON = b"application/json"
NDJSON = b"application/x-ndjson; charset=utf-8"
GOOD = {"id": "e1", "unit": "u1", "name": "purchase", "value": 2.5, "at": 1_759_999_000}


def decoder(*, keep_unit_ids: bool = False) -> IntakeDecoder:
    return IntakeDecoder(UnitKeyer(SECRET), keep_unit_ids=keep_unit_ids)


def outcomes(body: object, content_type: bytes | None = JSON) -> IntakeBatch:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decoder().outcomes(raw, content_type, now_us=NOW)


def records(batch: IntakeBatch) -> list[OutcomeRecord]:
    return msgspec.json.Decoder(OutcomeRecord).decode_lines(batch.payload)


def test_an_outcome_becomes_one_line_with_its_unit_hashed() -> None:
    batch = outcomes({"outcomes": [GOOD]})
    assert batch.payload.endswith(b"\n")
    assert b"u1" not in batch.payload
    assert records(batch) == [
        OutcomeRecord(
            id="e1", at=1_759_999_000_000_000, received_at=NOW, name="purchase", value=2.5, unit=unit_key("u1", SECRET)
        )
    ]
    assert batch.names == {"purchase": 1}


def test_unit_ids_are_kept_only_when_asked_for() -> None:
    batch = decoder(keep_unit_ids=True).outcomes(json.dumps(GOOD).encode(), JSON, now_us=NOW)
    assert records(batch)[0].unit_id == "u1"


@pytest.mark.parametrize(
    ("body", "content_type", "count"),
    [
        (json.dumps({"outcomes": [GOOD, GOOD]}).encode(), JSON, 2),
        (json.dumps({"sent_at": 1, "outcomes": [GOOD, GOOD]}).encode(), JSON, 2),
        (json.dumps([GOOD, GOOD]).encode(), JSON, 2),
        (json.dumps(GOOD).encode(), JSON, 1),
        (json.dumps(GOOD, indent=2).encode(), None, 1),
        (b"\n".join([json.dumps(GOOD).encode()] * 3), NDJSON, 3),
        (b"\r\n".join([json.dumps(GOOD).encode()] * 3) + b"\r\n\r\n", NDJSON, 3),
        (b"\n".join([json.dumps(GOOD).encode()] * 3) + b"\n", b"application/x-www-form-urlencoded", 3),
        (b"\n\n" + b"\n".join([json.dumps(GOOD).encode()] * 3), None, 3),
        (json.dumps({"outcomes": []}).encode(), JSON, 0),
        (json.dumps({"outcomes": [GOOD]}).encode(), None, 1),
    ],
)
def test_every_shape_of_a_batch_is_read(body: bytes, content_type: bytes | None, count: int) -> None:
    batch = outcomes(body, content_type)
    assert (batch.accepted, batch.errors) == (count, ())
    assert len(records(batch)) == count


@pytest.mark.parametrize(
    ("value", "expected", "named"),
    [
        (3, 3.0, None),
        (True, 1.0, None),
        (False, 0.0, None),
        ({"amount": 9.5, "items": 2}, 1.0, {"amount": 9.5, "items": 2}),
    ],
)
def test_values_are_numbers_booleans_or_named_numbers(value: object, expected: float, named: object) -> None:
    record = records(outcomes(GOOD | {"value": value}))[0]
    assert (record.value, record.values) == (expected, named)


def test_an_absent_value_is_one_and_an_absent_instant_is_the_arrival() -> None:
    record = records(outcomes({"unit": "u", "name": "click", "id": "x"}))[0]
    assert (record.value, record.at) == (1.0, NOW)


@pytest.mark.parametrize(
    ("at", "microseconds"),
    [
        ("2025-10-09T08:00:00Z", 1_759_996_800_000_000),
        ("2025-10-09T10:00:00.250+02:00", 1_759_996_800_250_000),
        (1_759_996_800.25, 1_759_996_800_250_000),
        (1_759_996_800, 1_759_996_800_000_000),
        ("2000-01-01T00:00:00Z", 946_684_800_000_000),
        (NOW // 1_000_000 + 300, NOW + 300_000_000),
    ],
)
def test_instants_are_iso_8601_with_a_zone_or_seconds(at: object, microseconds: int) -> None:
    assert records(outcomes(GOOD | {"at": at}))[0].at == microseconds


BAD_ITEMS: list[tuple[dict[str, object] | str, str, str]] = [
    ({"name": None}, "name", "it must be a string"),
    ({"name": ""}, "name", "allowed are 1 to 128"),
    ({"name": "a b"}, "name", "'a b'"),
    ({"name": "x" * 129}, "name", "allowed are 1 to 128"),
    ({"unit": ""}, "unit", "is empty"),
    ({"unit": "x" * 1025}, "unit", "has 1025 bytes; at most 1024"),
    ({"unit": "é" * 600}, "unit", "has 1200 bytes; at most 1024"),
    ({"unit": "x" * 10_000_000}, "unit", "has 10000000 bytes"),
    ({"unit": 1.5}, "unit", "is 1.5; it must be a string of at most 1024 bytes, or an integer"),
    ({"unit": True}, "unit", "is True"),
    ({"unit": 10**1024}, "unit", "has 1025 bytes"),
    ({"unit": "\ud800"}, "unit", "surrogate"),
    ({"request_id": "r"}, "unit", "both given"),
    ({"unit": None}, "unit", "neither given"),
    ({"value": float("nan")}, "value", "is nan; it must be a finite number"),
    ({"value": float("inf")}, "value", "is inf"),
    ({"value": float("-inf")}, "value", "is -inf"),
    ({"value": {"a": float("nan")}}, "value.a", "is nan"),
    ({"value": 10**400}, "value", "must be a finite number"),
    ({"value": "3"}, "value", "is '3'; it must be a finite number, true, false, or an object"),
    ({"value": None}, "value", "is None"),
    ({"value": [1]}, "value", "it must be"),
    ({"value": {}}, "value", "has 0 members"),
    ({"value": {"a b": 1}}, "value", "'a b'"),
    ({"value": {"a": "x"}}, "value", "it must be"),
    ({"value": {str(i): i for i in range(65)}}, "value", "has 65 members"),
    ({"at": 0}, "at", "is 1970-01-01T00:00:00Z; events before 2000"),
    ({"at": "1999-12-31T23:59:59Z"}, "at", "before 2000"),
    ({"at": NOW / 1e6 + 301}, "at", "over 5 minutes ahead"),
    ({"at": "2999-01-01T00:00:00Z"}, "at", "over 5 minutes ahead"),
    ({"at": NOW}, "at", "not seconds since 1970; divide"),
    ({"at": NOW // 1000}, "at", "not seconds since 1970; divide"),
    ({"at": -1e300}, "at", "not seconds"),
    ({"at": -1e11}, "at", "before 2000"),
    ({"at": "2025-10-09T08:00:00"}, "at", "has no zone; append Z"),
    ({"at": "yesterday"}, "at", "must be ISO 8601"),
    ({"at": True}, "at", "is True"),
    ({"id": ""}, "id", "has 0 characters"),
    ({"id": "i" * 129}, "id", "has 129 characters"),
    ({"id": 7}, "id", "is 7; it must be a string"),
    ({"id": "\udfff"}, "id", "surrogate"),
    ({"valeu": 3}, "valeu", "did you mean 'value'?"),
    ({"zzz": 3}, "zzz", "allowed are name, value, unit"),
    ("text", "", "is a string; it must be an object"),
    ("[]", "", "is a string"),
]


@pytest.mark.parametrize(("change", "field", "message"), BAD_ITEMS)
def test_a_bad_item_is_named_and_costs_the_others_nothing(
    change: dict[str, object] | str, field: str, message: str
) -> None:
    bad = change if isinstance(change, str) else GOOD | change
    batch = outcomes({"outcomes": [GOOD, bad, GOOD | {"id": "e2"}]})
    assert batch.accepted == 2
    assert [r.id for r in records(batch)] == ["e1", "e2"]
    (error,) = batch.errors
    assert (error.index, error.field) == (1, field)
    assert message in error.message
    assert len(error.message) < 250


def test_an_endless_integer_is_named() -> None:
    body = b'[{"unit": "u", "name": "n", "value": %s}, {"unit": "u", "name": "n"}]' % (b"1" * 5000)
    batch = outcomes(body)
    assert batch.accepted == 1
    assert batch.errors[0].message == "is inf; it must be a finite number"


def test_missing_fields_are_named() -> None:
    (error,) = outcomes({"unit": "u"}).errors
    assert (error.field, error.message) == ("name", "is missing; an outcome needs it")


def test_a_bad_line_of_ndjson_costs_only_itself() -> None:
    good = json.dumps(GOOD).encode()
    batch = outcomes(b"\n".join([good, b'{"unit": "u", ', good, b"[1]", b"NaN"]), NDJSON)
    assert batch.accepted == 2
    assert [(e.index, e.message[:27]) for e in batch.errors] == [
        (1, "line 2 is not valid JSON: E"),
        (3, "is a list; it must be an ob"),
        (4, "is a number; it must be an "),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body is empty"),
        (b"  \n ", "body is empty"),
        (b'{"outcomes": [{]}', "line 1, column 16"),
        (b'{"outcomes": [\n{"name": "x",}]}', "line 2"),
        (b'{"outcomes": 3}', "outcomes is a number; it must be a list"),
        (b'{"outcomes": {}}', "outcomes is an object; it must be a list"),
        (b"3", "outcomes is a number"),
        (b"null", "outcomes is null"),
        (b"\xff\xfe{}", "not UTF-8: invalid start byte at byte 0"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"unit=u&name=x", "not valid JSON"),
        (b"<outcome/>", "not valid JSON: Expecting value at line 1, column 1"),
        (b"1" * 5000, "outcomes is a number"),
    ],
)
def test_a_body_without_meaning_is_refused_with_its_place(body: bytes, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        outcomes(body)
    assert message in str(caught.value)


def test_the_slow_way_in_gives_the_same_records_as_the_fast_one() -> None:
    items = [GOOD, GOOD | {"unit": 12, "id": "n"}, {"request_id": "r-1", "name": "done", "at": "2025-10-09T08:00:00Z"}]
    fast = outcomes({"outcomes": items})
    slow = outcomes({"outcomes": [*items, {"nonsense": 1}]})
    assert slow.payload == fast.payload
    assert len(slow.errors) == 1


def test_the_short_cut_for_usual_items_takes_exactly_what_the_careful_way_takes() -> None:
    """With unit ids kept, every item goes the careful way."""
    values: dict[str, list[object]] = {
        "at": [NOW / 1e6 + 299.5, NOW / 1e6 + 300, NOW / 1e6 + 300.5, 946_684_799.5, 946_684_800, 1_759_999_000.123456],
        "unit": ["", "u" * 1024, "u" * 1025, "é", "é" * 600, 5],
        "id": ["", "i" * 128, "i" * 129, "é"],
        "value": [0, -1, 1e308, True, {"a": 1}],
        "name": ["a b", "other"],
        "request_id": ["r"],
    }
    changes = [{field: value} for field, choices in values.items() for value in choices]
    changes += [{"at": "2025-10-09T08:00:00Z"}, {"unit": None, "request_id": "r"}]
    items = [{**GOOD, "id": f"e{i}", **change} for i, change in enumerate(changes)]
    body = json.dumps([GOOD, *items]).encode()
    short, careful = (decoder(keep_unit_ids=k).outcomes(body, JSON, now_us=NOW) for k in (False, True))
    assert short.errors == careful.errors
    assert records(short) == [msgspec.structs.replace(r, unit_id="") for r in records(careful)]
    assert short.accepted == 1 + len(items) - 9, short.errors


def test_the_same_content_without_an_id_gets_the_same_id() -> None:
    item = {k: v for k, v in GOOD.items() if k != "id"}
    first, again = records(outcomes(item))[0], records(outcomes(json.dumps(item, indent=1).encode()))[0]
    assert first.derived_id
    assert first.id == again.id
    assert first.id != records(outcomes(item | {"value": 2.25}))[0].id
    assert not records(outcomes(GOOD))[0].derived_id


def test_outcomes_that_say_neither_which_nor_when_are_each_an_event() -> None:
    click = {"unit": "u", "name": "click"}
    ids = {r.id for r in records(outcomes([click, click, click]))}
    assert len(ids) == 3


EXPOSURE = {"unit": "u1", "experiment": "launch", "variant": "treatment"}


def exposures(body: object, now: int = NOW) -> tuple[IntakeBatch, list[ExposureRecord]]:
    batch = decoder().exposures(json.dumps(body).encode(), JSON, now_us=now)
    return batch, msgspec.json.Decoder(ExposureRecord).decode_lines(batch.payload)


def test_an_exposure_becomes_a_record() -> None:
    _, (record,) = exposures(
        {"exposures": [EXPOSURE | {"at": 1_759_999_000, "epoch": 2, "propensity": 0.5, "id": "x"}]}
    )
    assert record == ExposureRecord(
        id="x",
        at=1_759_999_000_000_000,
        received_at=NOW,
        experiment="launch",
        variant="treatment",
        unit=unit_key("u1", SECRET),
        epoch=2,
        propensity=0.5,
    )


def test_the_same_exposure_reported_again_has_the_same_id() -> None:
    _, (first,) = exposures(EXPOSURE)
    _, (again,) = exposures(EXPOSURE, now=NOW + 5_000_000)
    assert first.id == again.id


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"variant": ""}, "variant", "allowed are 1 to 128"),
        ({"experiment": 3}, "experiment", "it must be a string"),
        ({"epoch": -1}, "epoch", "0 or more"),
        ({"epoch": 1 << 70}, "epoch", "below 2^31"),
        ({"epoch": 1.5}, "epoch", "an integer"),
        ({"propensity": 0}, "propensity", "above 0"),
        ({"propensity": 1.01}, "propensity", "at most 1"),
        ({"propensity": float("nan")}, "propensity", "is nan"),
        ({"unit": None}, "unit", "it must be a string"),
        ({"at": 5}, "at", "before 2000"),
        ({"name": "x"}, "name", "is not a field of an exposure"),
    ],
)
def test_a_bad_exposure_is_named(change: dict[str, object], field: str, message: str) -> None:
    batch, kept = exposures([EXPOSURE | change, EXPOSURE])
    assert len(kept) == 1
    assert batch.errors[0].field == field
    assert message in batch.errors[0].message
