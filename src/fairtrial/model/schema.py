"""JSON Schema and reference page of the experiment file, both made from the declaration that the parser runs on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fairtrial.model.kinds import JsonObject, Kind
from fairtrial.model.parse import FILE
from fairtrial.model.sections import Section

SCHEMA_ID: Final = "urn:fairtrial:experiment-file:1"


def sections() -> Iterator[Section[object]]:
    """Every section of the file, each once, outer ones first."""
    seen: set[str] = set()
    waiting: list[Kind[object]] = [FILE]
    while waiting:
        kind = waiting.pop(0)
        if isinstance(kind, Section):
            if kind.name in seen:
                continue
            seen.add(kind.name)
            yield kind
        waiting.extend(kind.inner())


def json_schema() -> JsonObject:
    """JSON Schema (2020-12) of the experiment file, for editors. It cannot see sums, references and overlaps."""
    definitions: JsonObject = {section.name: section.definition() for section in sections() if section is not FILE}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Fairtrial experiment file",
        **FILE.definition(),
        "$defs": definitions,
    }


def reference_page() -> str:
    """Markdown page that lists every key."""
    parts = [_HEAD, *(_section(section) for section in sections())]
    return "\n".join(parts)


def _section(section: Section[object]) -> str:
    lines = [f"## {section.name}", "", section.doc, "", "| key | value | default | meaning |", "|---|---|---|---|"]
    for key in section.keys:
        default = "**required**" if key.is_required else (key.default or "none").replace("|", "\\|")
        cells = (f"`{key.name}`", key.kind.allowed().replace("|", "\\|"), default, key.doc.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


_HEAD: Final = """\
# The experiment file

<!-- Made by scripts/gen_reference.py from src/fairtrial/model/parse*.py; edit there. -->

One YAML (or JSON) file says everything: models, the endpoints in front of them, and the trials between them.
`fairtrial validate FILE` explains every mistake with its place and its fix; `experiment.schema.json`, beside this
page, lets editors complete keys and mark mistakes while you type:

```yaml
# yaml-language-server: $schema=docs/reference/experiment.schema.json
```

- Names are 1 to 128 letters, digits, `.`, `_` and `-`.
- Durations are a number and one of `ms s m h d w`: `500ms`, `24h`, `7d`. Shares are `5%` or `0.05`. Sizes are `64MiB`
  or a number of bytes.
- Margins and effects: `20%` is relative to control; `1pp` is one point of a proportion (0.01); a plain number, or a
  duration, is in the metric's own unit.
- Text that other YAML readers take for a boolean (`NO`, `on`) must stand in quotes, and so must numbers that are text.
- A file is at most 1 MiB of UTF-8, at most 64 levels deep, with at most 100,000 values, aliases followed.
- Unknown keys and keys that stand twice are mistakes.
"""
