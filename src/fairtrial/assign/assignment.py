"""Units to variants, for one experiment under one allocation.

`Assigner` is compiled once per snapshot. `assign` explains itself; `variant_of` is the same decision in 0.6 to 1 us: a
copied hash state, one comparison of bytes for *whether*, one look-up for *which arm*. Both agree with `assign_many`;
a property test holds them to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from fairtrial.assign.audience import Audience, compile_audience
from fairtrial.assign.bucket import (
    BUCKET_MASK,
    BUCKET_SHIFT,
    SCALE,
    WHETHER_SHIFT,
    Hash,
    boundaries,
    buckets,
    encode_unit,
    holdout_salt,
    layer_salt,
    threshold,
)
from fairtrial.model.allocation import Allocation, Status
from fairtrial.model.experiment import Experiment


class Reason(StrEnum):
    """Why a unit is, or is not, in the experiment."""

    ENROLLED = "enrolled"
    NOT_ENROLLED = "not_enrolled"
    HOLDOUT = "holdout"
    LAYER = "layer"
    AUDIENCE = "audience"
    PAUSED = "paused"
    NO_UNIT = "no_unit"


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one unit gets. variant, propensity: None unless enrolled. bucket: in [0, 1); None without a unit.

    propensity: chance of this variant given that the unit is enrolled.
    """

    experiment: str
    unit: str | None
    variant: str | None
    is_enrolled: bool
    bucket: float | None
    propensity: float | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Gate:
    """Units whose *whether* number under `salt` is in [low, high) may pass, or (is_exclusion) may not.

    low, high: multiples of 2**-52, as whole numbers.
    """

    salt: str
    low: int
    high: int
    reason: Reason
    is_exclusion: bool

    def admits(self, whether: int) -> bool:
        """True where a unit with this number passes."""
        return (self.low <= whether < self.high) is not self.is_exclusion


class Assigner:
    """An experiment under an allocation, ready to assign. Immutable; safe to share between threads.

    variant_of(unit): index into the experiment's variants, -1 where the unit is not enrolled (or is empty). It does not
    look at the audience: whoever has the request's attributes asks `admits` first.
    """

    __slots__ = (
        "_names",
        "_shares",
        "admits",
        "allocation",
        "arms",
        "ends",
        "enrolment",
        "experiment",
        "gates",
        "variant_of",
    )

    def __init__(self, experiment: Experiment, allocation: Allocation) -> None:
        order = {variant.name: index for index, variant in enumerate(experiment.variants)}
        shares = tuple(share for _, share in allocation.split)
        self.experiment = experiment
        self.allocation = allocation
        self.arms: tuple[int, ...] = tuple(order[name] for name, _ in allocation.split)
        self.ends: tuple[int, ...] = tuple(threshold(end) for end in boundaries(shares)[:-1])
        self.enrolment = threshold(allocation.enrolment) if allocation.status is Status.RUNNING else 0
        self.gates = _gates(experiment)
        self.admits: Audience = compile_audience(experiment.audience)
        self.variant_of: Callable[[str], int] = _compiled(self)
        self._names = tuple(name for name, _ in allocation.split)
        self._shares = shares

    @property
    def salt(self) -> str:
        """What units are hashed with."""
        return self.experiment.salt

    def assign(self, unit: str | None, attributes: Mapping[str, str | None] | None = None) -> Assignment:
        """The assignment of a unit, with its reason. attributes: of the request; None leaves the audience unchecked."""
        if not unit:
            reason = Reason.NO_UNIT if self.allocation.status is Status.RUNNING else Reason.PAUSED
            return Assignment(self.experiment.name, unit, None, False, None, None, reason)
        number = _number(self.salt, unit)
        bucket = number >> BUCKET_SHIFT & BUCKET_MASK
        reason = self._reason(unit, number >> WHETHER_SHIFT, attributes)
        where = bucket / SCALE
        if reason is not Reason.ENROLLED:
            return Assignment(self.experiment.name, unit, None, False, where, None, reason)
        arm = bisect_right(self.ends, bucket)
        return Assignment(self.experiment.name, unit, self._names[arm], True, where, self._shares[arm], reason)

    def _reason(self, unit: str, whether: int, attributes: Mapping[str, str | None] | None) -> Reason:
        if self.allocation.status is not Status.RUNNING:
            return Reason.PAUSED
        if attributes is not None and not self.admits(attributes):
            return Reason.AUDIENCE
        for gate in self.gates:
            if not gate.admits(_number(gate.salt, unit) >> WHETHER_SHIFT):
                return gate.reason
        return Reason.ENROLLED if whether < self.enrolment else Reason.NOT_ENROLLED


def _number(salt: str, unit: str) -> int:
    """The whole digest as a number."""
    return int.from_bytes(sha256(salt.encode() + b":" + encode_unit(unit)).digest(), "big")


def _gates(experiment: Experiment) -> tuple[Gate, ...]:
    """Holdout and layer, where they turn anyone away."""
    gates = []
    if experiment.holdout is not None and experiment.holdout.share > 0:
        salt = holdout_salt(experiment.holdout.name)
        gates.append(Gate(salt, 0, threshold(experiment.holdout.share), Reason.HOLDOUT, is_exclusion=True))
    layer = experiment.layer
    if layer is not None and (layer.low, layer.high) != (0.0, 1.0):
        gates.append(
            Gate(layer_salt(layer.name), threshold(layer.low), threshold(layer.high), Reason.LAYER, is_exclusion=False)
        )
    return tuple(gates)


def _compiled(assigner: Assigner) -> Callable[[str], int]:
    """`variant_of` as a closure: locals are the fastest variables that Python has.

    Measured (benchmarks/assign.py): a copied hash state is cheaper than hashing salt and unit together, comparing the
    digest's bytes cheaper than making a number of them, and looking four bits up cheaper than bisecting 52.
    """
    copy = _salted(assigner.salt).copy
    from_bytes = int.from_bytes
    limit = _digest_below(assigner.enrolment)
    ends, arms = assigner.ends, assigner.arms
    settled = _settled_arms(ends, arms)
    passes = _gate_check(assigner.gates)

    def variant_of(unit: str) -> int:
        if not unit:
            return -1
        try:
            data = unit.encode()
        except UnicodeEncodeError:
            data = encode_unit(unit)
        state = copy()
        state.update(data)
        digest = state.digest()
        if digest >= limit or (passes is not None and not passes(data)):
            return -1
        arm = settled[digest[6]]
        if arm >= 0:
            return arm
        # Seven bytes from the sixth on hold all of the bucket's 52 bits.
        return arms[bisect_right(ends, from_bytes(digest[6:13], "big") & BUCKET_MASK)]

    return variant_of


def _settled_arms(ends: tuple[int, ...], arms: tuple[int, ...]) -> tuple[int, ...]:
    """Arm by the digest's byte 6, whose low half is the bucket's first four bits; -1 where those do not settle it."""
    cell = SCALE >> 4
    firsts = [bisect_right(ends, cell * part) for part in range(16)]
    lasts = [bisect_right(ends, cell * (part + 1) - 1) for part in range(16)]
    by_bits = [arms[first] if first == last else -1 for first, last in zip(firsts, lasts, strict=True)]
    return tuple(by_bits * 16)


def _gate_check(gates: tuple[Gate, ...]) -> Callable[[bytes], bool] | None:
    """True of units that pass every gate; None where there is none, to save the call."""
    if not gates:
        return None
    compiled = [
        (_salted(gate.salt).copy, _digest_below(gate.low), _digest_below(gate.high), gate.is_exclusion)
        for gate in gates
    ]

    def passes(data: bytes) -> bool:
        for copy, low, high, is_exclusion in compiled:
            state = copy()
            state.update(data)
            if (low <= state.digest() < high) is is_exclusion:
                return False
        return True

    return passes


def _salted(salt: str) -> Hash:
    return sha256(salt.encode() + b":")


def _digest_below(number: int) -> bytes:
    """Bytes that are above exactly the digests whose first 52 bits are below `number`; number: in [0, 2**52]."""
    return (number << 4).to_bytes(7, "big") if number < SCALE else b"\xff" * 33


__all__ = ["Assigner", "Assignment", "Gate", "Reason", "buckets"]
