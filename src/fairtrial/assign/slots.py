"""Units that are stretches of time (switchback), optionally one per combination of attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from urllib.parse import quote

from fairtrial.model.experiment import SlotUnit

SlotOf = Callable[[int, Mapping[str, str | None]], str | None]


def compile_slot(unit: SlotUnit) -> SlotOf:
    """A function of (microseconds since 1970, attributes) that gives the unit; None where an attribute is absent.

    The unit is the slot's number since 1970-01-01T00:00:00Z, then `|` and the percent-encoded value of each attribute:
    `978307|eu-west`. Slots of a day begin at midnight UTC.
    """
    # As the decimal that was written: 0.1 s is 100,000 us, not a little more.
    length_us = Fraction(repr(unit.slot_s)) * 1_000_000
    numerator, denominator = length_us.as_integer_ratio()
    names = unit.by

    def slot_of(at: int, attributes: Mapping[str, str | None]) -> str | None:
        values = [attributes.get(name) for name in names]
        if any(value is None for value in values):
            return None
        encoded = (quote(value, safe="", errors="surrogatepass") for value in values if value is not None)
        return "|".join([str(at * denominator // numerator), *encoded])

    return slot_of
