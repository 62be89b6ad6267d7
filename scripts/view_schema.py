"""Write docs/reference/experiment-view.schema.json; with --check, only say whether it is up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fairtrial.analysis.view import view_schema

PATH = Path(__file__).parent.parent / "docs" / "reference" / "experiment-view.schema.json"


def main() -> int:
    """Answer 1 where --check finds the file out of date."""
    text = json.dumps(view_schema(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        if PATH.exists() and PATH.read_text() == text:
            return 0
        print(f"{PATH} is out of date: run python scripts/view_schema.py", file=sys.stderr)
        return 1
    PATH.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
