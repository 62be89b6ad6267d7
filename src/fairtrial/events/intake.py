"""From an HTTP body to the lines that go to the log: decode, check, hash the unit, encode. Pure: the clock is given.

One bad item never costs the good ones: it is reported by index, field and message, and left out. The usual body, with
nothing wrong in it, takes 3 us an item.

Ids. An item without `id` gets one made from its content (BLAKE2b), so that sending the same body twice counts once. An
*outcome* that has neither `id` nor `at` says neither which event it is nor when it was: each one received is a new
event, because two equal clicks must not become one; sending such a body again counts again. An *exposure* without `at`
is the fact that the unit met the variant: one a day is enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from fairtrial.events.bodies import BadItem, FastShape, quote, read_items
from fairtrial.events.items import (
    EARLIEST_US,
    MAX_AHEAD_US,
    MAX_ID_CHARS,
    MAX_UNIT_BYTES,
    ExposureItem,
    Item,
    ItemProblem,
    OutcomeItem,
    check_at,
    check_id,
    check_name,
    check_unit,
    check_values,
    from_object,
)
from fairtrial.model.records import ExposureRecord, OutcomeRecord

_MAX_KNOWN_NAMES = 10_000
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why one item was left out. index: 0-based place in the batch. field: name, or empty for the item as a whole."""

    index: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class IntakeBatch:
    """What a body came to. payload: newline-terminated JSON records. names: accepted items by metric or experiment."""

    payload: bytes
    accepted: int
    errors: tuple[ItemError, ...]
    names: Mapping[str, int]


class IntakeDecoder:
    """Turns bodies into batches. keyer: unit text to number. keep_unit_ids: also write the text to the log."""

    def __init__(self, keyer: Callable[[str], int], *, keep_unit_ids: bool = False) -> None:
        self._keyer = keyer
        self._keep_unit_ids = keep_unit_ids
        self._outcomes = FastShape(OutcomeItem, "outcomes")
        self._exposures = FastShape(ExposureItem, "exposures")
        self._encoder = msgspec.json.Encoder()
        self._known_names: set[str] = set()

    def outcomes(self, body: bytes, content_type: bytes | None, *, now_us: int) -> IntakeBatch:
        """Decode a body of outcomes received at `now_us` (microseconds since 1970). Raises RequestError."""
        errors: list[ItemError] = []
        records: list[OutcomeRecord] = []
        take, key, known, is_plain = records.append, self._keyer, self._known_names, not self._keep_unit_ids
        earliest, latest = EARLIEST_US / 1e6, (now_us + MAX_AHEAD_US) / 1e6
        for index, item in self._items(self._outcomes, body, content_type, errors):
            name, unit, at, identity, value = item.name, item.unit, item.at, item.id, item.value
            # The usual item is checked here, without a call: it halves the time. Any other gets `_outcome`, which
            # checks the same and says what is wrong.
            if (
                is_plain
                and name in known
                and type(unit) is str
                and 0 < len(unit) <= MAX_UNIT_BYTES
                and unit.isascii()
                and type(identity) is str
                and 0 < len(identity) <= MAX_ID_CHARS
                and identity.isascii()
                and type(at) is float
                and earliest <= at <= latest
                and type(value) is float
                and item.request_id is None
            ):
                take(OutcomeRecord(identity, round(at * 1e6), now_us, name, value, None, key(unit)))
                continue
            try:
                take(self._outcome(item, index, now_us))
            except ItemProblem as exc:
                errors.append(ItemError(index, exc.field, exc.message))
        return self._batch(records, errors, [r.name for r in records])

    def exposures(self, body: bytes, content_type: bytes | None, *, now_us: int) -> IntakeBatch:
        """Decode a body of exposures received at `now_us` (microseconds since 1970). Raises RequestError."""
        errors: list[ItemError] = []
        records: list[ExposureRecord] = []
        for index, item in self._items(self._exposures, body, content_type, errors):
            try:
                records.append(self._exposure(item, now_us))
            except ItemProblem as exc:
                errors.append(ItemError(index, exc.field, exc.message))
        return self._batch(records, errors, [r.experiment for r in records])

    def _items(
        self, shape: FastShape[Item], body: bytes, content_type: bytes | None, errors: list[ItemError]
    ) -> Iterable[tuple[int, Item]]:
        """The items with their places: all at once where nothing is wrong, else one by one."""
        try:
            return enumerate(shape.decode(body, content_type))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return _one_by_one(shape, body, content_type, errors)

    def _batch(self, records: Sequence[msgspec.Struct], errors: list[ItemError], names: Sequence[str]) -> IntakeBatch:
        if errors:
            errors.sort(key=lambda e: e.index)
        # A Counter costs 1.5 us, which is felt where outcomes come one by one.
        counts = {names[0]: 1} if len(names) == 1 else Counter(names)
        return IntakeBatch(self._encoder.encode_lines(records), len(records), tuple(errors), counts)

    def _outcome(self, item: OutcomeItem, index: int, now_us: int) -> OutcomeRecord:
        name, value = item.name, item.value
        if name not in self._known_names:
            self._learn("name", name)
        if (item.unit is None) == (item.request_id is None):
            found = "neither" if item.unit is None else "both"
            raise ItemProblem("unit", f"and request_id: {found} given; an outcome belongs to exactly one of them")
        unit = None if item.unit is None else check_unit(item.unit)
        record = OutcomeRecord(
            id="" if item.id is None else check_id("id", item.id),
            at=now_us if item.at is None else check_at(item.at, now_us),
            received_at=now_us,
            name=name,
            value=1.0 if isinstance(value, dict) else float(value),
            values=check_values(value) if isinstance(value, dict) else None,
            unit=None if unit is None else self._keyer(unit),
            request_id="" if item.request_id is None else check_id("request_id", item.request_id),
            unit_id=unit if unit is not None and self._keep_unit_ids else "",
        )
        if item.id is None:
            when = (now_us, index) if item.at is None else record.at
            record.id = self._derive_id(name, record.unit, record.request_id, when, record.value, record.values)
            record.derived_id = True
        return record

    def _exposure(self, item: ExposureItem, now_us: int) -> ExposureRecord:
        for field in ("experiment", "variant"):
            if (name := getattr(item, field)) not in self._known_names:
                self._learn(field, name)
        if not 0 <= item.epoch < 1 << 31:
            raise ItemProblem("epoch", f"is {quote(item.epoch)}; it must be 0 or more, and below 2^31")
        if not 0 < item.propensity <= 1:
            raise ItemProblem("propensity", f"is {item.propensity}; it must be above 0 and at most 1")
        text = check_unit(item.unit)
        at = now_us if item.at is None else check_at(item.at, now_us)
        unit = self._keyer(text)
        if item.id is not None:
            identity = check_id("id", item.id)
        else:
            when = None if item.at is None else at
            identity = self._derive_id(item.experiment, item.variant, unit, when, item.epoch, item.propensity)
        return ExposureRecord(
            id=identity,
            at=at,
            received_at=now_us,
            experiment=item.experiment,
            variant=item.variant,
            unit=unit,
            epoch=item.epoch,
            propensity=item.propensity,
            unit_id=text if self._keep_unit_ids else "",
        )

    def _learn(self, field: str, name: str) -> None:
        """Check a name, and remember it: senders use few. Raises ItemProblem."""
        check_name(field, name)
        if len(self._known_names) < _MAX_KNOWN_NAMES:
            self._known_names.add(name)

    def _derive_id(self, *content: object) -> str:
        return blake2b(self._encoder.encode(content), digest_size=_ID_BYTES).hexdigest()


def _one_by_one(
    shape: FastShape[Item], body: bytes, content_type: bytes | None, errors: list[ItemError]
) -> Iterator[tuple[int, Item]]:
    for index, fields in enumerate(read_items(body, content_type, key=shape.key)):
        if isinstance(fields, BadItem):
            errors.append(ItemError(index, "", fields.message))
            continue
        try:
            item = from_object(shape.item, fields)
        except ItemProblem as exc:
            errors.append(ItemError(index, exc.field, exc.message))
        else:
            yield index, item
