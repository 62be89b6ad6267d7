"""How many units a second one core assigns: in a plain loop, and a column at a time.

Beside them, in the same run, what the definition says word for word (hex digits, floats) and the same with one
concatenation instead of a copied hash state. Rounds alternate between the cases; medians of the rounds; CPU time, so
that other processes on the machine count less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from hashlib import sha256

from fairtrial.assign.assignment import Assigner
from fairtrial.assign.many import assign_many
from fairtrial.model.allocation import Allocation
from fairtrial.model.experiment import Experiment, Holdout, LayerSlice, RequestUnit, Variant

SALT = "churn-3-launch"
SPLIT = (("control", 0.5), ("treatment", 0.5))


def assigner(enrolment: float = 1.0, layer: LayerSlice | None = None, holdout: Holdout | None = None) -> Assigner:
    variants = tuple(Variant(name, "m") for name, _ in SPLIT)
    experiment = Experiment(SALT, "e", RequestUnit(), variants, SPLIT, "control", SALT, layer=layer, holdout=holdout)
    return Assigner(experiment, Allocation(SALT, 0, enrolment, SPLIT, started_at=0))


def by_definition(units: list[str]) -> None:
    for unit in units:
        digits = sha256(f"{SALT}:{unit}".encode()).hexdigest()
        if int(digits[:13], 16) / 2**52 < 1.0:
            bucket = int(digits[13:26], 16) / 2**52
            _ = 0 if bucket < 0.5 else 1


def by_concatenation(units: list[str]) -> None:
    salt, from_bytes, half = SALT.encode() + b":", int.from_bytes, 1 << 51
    for unit in units:
        digest = sha256(salt + unit.encode()).digest()
        _ = 0 if from_bytes(digest[6:13], "big") & 0xFFFFFFFFFFFFF < half else 1


def loop(assign: Callable[[str], object]) -> Callable[[list[str]], None]:
    def run(units: list[str]) -> None:
        for unit in units:
            assign(unit)

    return run


def column(one: Assigner) -> Callable[[list[str]], None]:
    def run(units: list[str]) -> None:
        assign_many(units, one)

    return run


def cases() -> dict[str, Callable[[list[str]], None]]:
    everyone, stage = assigner(), assigner(enrolment=0.02)
    gated = assigner(layer=LayerSlice("l", 0.0, 0.5), holdout=Holdout("q4", 0.05))
    return {
        "by definition: hex digits and floats, loop": by_definition,
        "one concatenation, two arms wired in, loop": by_concatenation,
        "`variant_of`, everyone enrolled, loop": loop(everyone.variant_of),
        "`variant_of`, 1 % stage, loop": loop(stage.variant_of),
        "`variant_of`, layer and holdout (three hashes), loop": loop(gated.variant_of),
        "`assign` with its reason, loop": loop(everyone.assign),
        "`assign_many`, everyone enrolled": column(everyone),
        "`assign_many`, 1 % stage": column(stage),
        "`assign_many`, layer and holdout (three hashes)": column(gated),
    }


def measure(units: list[str], rounds: int) -> dict[str, float]:
    """Millions of units a second, medians over alternating rounds."""
    rates: dict[str, list[float]] = {name: [] for name in cases()}
    for _ in range(rounds):
        for name, run in cases().items():
            started = time.process_time()
            run(units)
            rates[name].append(len(units) / (time.process_time() - started) / 1e6)
    return {name: statistics.median(values) for name, values in rates.items()}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    rates = measure([f"user-{number}" for number in range(options.units)], options.rounds)
    base = rates["by definition: hex digits and floats, loop"]
    print("## Assignment\n")
    print("| case | million units a second, one core | against the definition |")
    print("|---|---:|---:|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.2f} | {rate / base:.1f}x |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
