"""Fuzz the HTTP parsers: corpus messages, mutated, must have one meaning to us, to h11 and to llhttp.

    .venv/bin/python scripts/fuzz_wire.py --seconds 60 --seed 1

Inputs whose outcome has not been seen before join the corpus, so mutations pile up. A fault is printed with the input
that shows it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.unit.wire.support_mutations import cut, mutated
from tests.unit.wire.support_oracles import FAST, LIMITS, request_faults, response_faults
from tests.unit.wire.support_wire import Message, load_cases, read_request, sent_bytes

_LONGEST = 2000
_MAX_CORPUS = 5000


def _load(name: str) -> list[bytes]:
    return [data for case in load_cases(name) if 0 < len(data := sent_bytes(case)) <= _LONGEST]


def _shape(data: bytes) -> tuple[object, ...]:
    """What is new about an outcome: which fields matter to it, not their values."""
    outcome = read_request((data,), FAST, LIMITS)
    if not isinstance(outcome, Message):
        return (str(outcome), data.count(b"\r\n"))
    head = outcome.head
    names = sorted({line.partition(b":")[0].lower() for line in head["head"].split(b"\r\n")[1:]})
    return (head["method"], head["is_chunked"], head["keep_alive"], head["expects_continue"], *names)


def fuzz(seconds: float, seed: int) -> int:
    """Print the number of messages tried and of faults found; return the latter."""
    random = Random(seed)
    requests, responses = _load("wire_requests.json"), _load("wire_responses.json")
    seen = {_shape(data) for data in requests}
    until = time.monotonic() + seconds
    tried = faulty = taken = 0
    while time.monotonic() < until:
        data = mutated(random, random.choice(requests), requests)
        pieces = cut(random, data)
        for fault in request_faults(data, pieces):
            faulty += 1
            print(f"request {data!r} in {pieces!r}: {fault}")
        shape = _shape(data)
        taken += len(shape) > 2
        if shape not in seen and len(data) <= _LONGEST and len(requests) < _MAX_CORPUS:
            seen.add(shape)
            requests.append(data)
        answer = mutated(random, random.choice(responses), responses)
        method = random.choice((b"GET", b"HEAD", b"POST"))
        for fault in response_faults(answer, cut(random, answer), method):
            faulty += 1
            print(f"response to {method!r} {answer!r}: {fault}")
        tried += 2
    print(f"seed {seed}: {tried} messages, {taken} requests taken, corpus {len(requests)}, {faulty} faults")
    return faulty


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    return 1 if fuzz(arguments.seconds, arguments.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
