"""Writes docs/reference/experiment-file.md and experiment.schema.json; --check says whether they are up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fairtrial.model.schema import json_schema, reference_page

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"


def pages() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    return {
        REFERENCE / "experiment-file.md": reference_page(),
        REFERENCE / "experiment.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
    }


def main(argv: list[str]) -> int:
    """0, or with --check 1 where a file is out of date."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    if "--check" in argv:
        for path in stale:
            print(f"{path.name} is out of date: run scripts/gen_reference.py", file=sys.stderr)
        return 1 if stale else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(pages()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
