"""Writes the generated pages of docs/reference/; --check says whether they are up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fairtrial.api.app import build_app
from fairtrial.cli.main import app
from fairtrial.model.schema import json_schema, reference_page

EXIT_CODES = """
## Exit codes

| code | meaning |
|---|---|
| 0 | done; for `analyze`: ship |
| 1 | error |
| 2 | usage |
| 3 | undecided: keep running, or inconclusive |
| 4 | a guardrail is breached: roll back |
| 5 | the trial is invalid (SRM, crossover) |
| 6 | not found |
| 130 | interrupted |
"""
REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"


def pages() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    return {
        REFERENCE / "experiment-file.md": reference_page(),
        REFERENCE / "cli.md": app.generate_docs(output_format="markdown").rstrip() + "\n" + EXIT_CODES,
        REFERENCE / "openapi.json": json.dumps(build_app(None, page=None).openapi(), indent=2) + "\n",  # type: ignore[arg-type]
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
