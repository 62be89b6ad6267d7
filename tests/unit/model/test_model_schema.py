"""The generated schema and reference know every key, and the schema accepts what the parser accepts."""

from __future__ import annotations

import importlib.util
import json
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from fairtrial.model.experiment import JsonValue
from fairtrial.model.parse import load_experiment, to_document
from fairtrial.model.schema import json_schema, reference_page, sections

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
JsonObject = dict[str, JsonValue]


KNOWN = {
    "$schema", "$id", "$defs", "title", "description", "$ref", "anyOf", "not", "enum", "type", "pattern", "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum", "items", "minItems", "properties", "required",
    "additionalProperties", "propertyNames", "minProperties",
}  # fmt: skip
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip
BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "minimum": operator.ge, "maximum": operator.le, "exclusiveMinimum": operator.gt, "exclusiveMaximum": operator.lt,
}  # fmt: skip


def mistakes(value: JsonValue, schema: JsonValue, root: JsonObject, path: str = "$") -> Iterator[str]:
    """Where `value` breaks `schema`: the few JSON Schema keywords that ours uses, and an error for any other."""
    assert isinstance(schema, dict)
    assert schema.keys() <= KNOWN, schema.keys() - KNOWN
    yield from _combined(value, schema, root, path)
    wanted = schema.get("type", list(TYPES))
    names = wanted if isinstance(wanted, list) else [wanted]
    if value is not None and not any(_has_type(value, str(name)) for name in names):
        yield f"{path}: {value!r} is not {names}"
    elif isinstance(value, str) and not re.search(str(schema.get("pattern", "")), value):
        yield f"{path}: {value!r} does not match {schema['pattern']}"
    elif isinstance(value, dict):
        yield from _object_mistakes(value, schema, root, path)
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from mistakes(item, schema["items"], root, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        for key, holds in BOUNDS.items():
            bound = schema.get(key, value)
            assert isinstance(bound, int | float)
            if key in schema and not holds(value, bound):
                yield f"{path}: {value} breaks {key} {bound}"


def _combined(value: JsonValue, schema: JsonObject, root: JsonObject, path: str) -> Iterator[str]:
    if "$ref" in schema:
        definitions = root["$defs"]
        assert isinstance(definitions, dict)
        yield from mistakes(value, definitions[str(schema["$ref"]).removeprefix("#/$defs/")], root, path)
    options = schema.get("anyOf", [])
    assert isinstance(options, list)
    if options and all(any(mistakes(value, option, root, path)) for option in options):
        yield f"{path}: {value!r} is none of the alternatives"
    if schema.get("not") == {"type": "null"} and value is None:
        yield f"{path}: null is forbidden"
    allowed = schema.get("enum", [value])
    assert isinstance(allowed, list)
    if value not in allowed:
        yield f"{path}: {value!r} is not in {allowed}"


def _has_type(value: JsonValue, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _object_mistakes(value: JsonObject, schema: JsonObject, root: JsonObject, path: str) -> Iterator[str]:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    yield from (f"{path}: {name} is missing" for name in required if name not in value)
    for name, item in value.items():
        if "propertyNames" in schema:
            yield from mistakes(name, schema["propertyNames"], root, f"{path} (name)")
        rest = schema.get("additionalProperties", {})
        if name in properties:
            yield from mistakes(item, properties[name], root, f"{path}.{name}")
        elif rest is False:
            yield f"{path}: {name} is unknown"
        else:
            yield from mistakes(item, rest, root, f"{path}.{name}")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_and_their_documents_are_valid_under_the_schema(path: Path) -> None:
    schema = json_schema()
    assert list(mistakes(yaml.safe_load(path.read_text()), schema, schema)) == []
    assert list(mistakes(to_document(load_experiment(path)), schema, schema)) == []


def test_schema_refuses_unknown_keys_and_wrong_types() -> None:
    schema = json_schema()
    document = to_document(load_experiment(EXAMPLES[0]))
    assert list(mistakes(document | {"experimentz": {}}, schema, schema)) == ["$: experimentz is unknown"]
    assert list(mistakes(document | {"keep_unit_ids": "yes"}, schema, schema))
    assert list(mistakes({}, schema, schema)) == ["$: models is missing", "$: endpoints is missing"]


def test_every_key_of_every_section_is_in_the_schema_and_on_the_page() -> None:
    definitions = json_schema()["$defs"]
    assert isinstance(definitions, dict)
    page = reference_page()
    for section in sections():
        properties = (definitions[section.name] if section.name != "file" else json_schema())["properties"]  # type: ignore[index,call-overload]
        assert list(properties) == [key.name for key in section.keys]  # type: ignore[arg-type]
        assert f"\n## {section.name}\n" in page
        for key in section.keys:
            assert f"| `{key.name}` |" in page
            assert key.doc.endswith("."), key.name


def test_every_reference_in_the_schema_has_a_definition() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert used == definitions.keys()


def test_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("gen_reference", ROOT / "scripts" / "gen_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--check"]) == 0
