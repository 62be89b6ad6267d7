"""Files shown on documentation pages, so that tests run what readers copy.

A file is a fenced block whose info string is a language and a file name: ```` ```yaml experiment.yaml ````.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

HOW_TO: Final = Path(__file__).resolve().parents[2] / "docs" / "how-to"
_BLOCK: Final = re.compile(r"^```\w+ (?P<name>\S+)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)


def files_of(page: str) -> dict[str, str]:
    """Name -> content of every file shown on docs/how-to/<page>.md."""
    text = (HOW_TO / f"{page}.md").read_text()
    return {block["name"]: block["content"] for block in _BLOCK.finditer(text)}


def write_files(page: str, folder: Path) -> None:
    """Write every file shown on the page below `folder`."""
    for name, content in files_of(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
