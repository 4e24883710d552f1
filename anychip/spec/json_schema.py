"""The JSON Schema of the files, for editors: made from the table of fields, so that it cannot say anything else."""

from typing import Any

from anychip.spec.fields import KINDS, SCHEMA_VERSION, Field, Node, tree
from anychip.spec.units import units_of

_DATE = r"^\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?$"
_PLAIN: dict[str, dict[str, Any]] = {
    "text": {"type": "string", "minLength": 1},
    "date": {"type": "string", "pattern": _DATE},
    "integer": {"type": "integer", "minimum": 1},
    "flag": {"type": "boolean"},
    "texts": {"type": "array", "items": {"type": "string", "minLength": 1}},
    "integers": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
}


def json_schema(kind: str = "chips") -> dict[str, Any]:
    """Draft 2020-12 schema of "chips", "platforms", "links" or "clusters" files."""
    schema = _table(tree(kind), "")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"anychip open chip standard, {kind}, version {SCHEMA_VERSION}",
        **schema,
        "$defs": {
            "src": {"type": "string", "description": "Name of a source in [sources]."},
            "kind": {"enum": list(KINDS), "description": "Overrides the kind of the source."},
            "date": {**_PLAIN["date"], "description": "Overrides the date of the source."},
            "note": {"type": "string", "minLength": 1},
        },
    }


def _table(node: Node, path: str) -> dict[str, Any]:
    if path == "disputed":
        assert node.wildcard is not None
        return {"type": "array", "items": _table(node.wildcard, "disputed.*")}
    named = {name: child for name, child in node.children.items() if name != "*"}
    properties = {name: _child(child, f"{path}.{name}" if path else name) for name, child in named.items()}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if node.wildcard is not None:
        schema["additionalProperties"] = _child(node.wildcard, f"{path}.*")
    # A variant inherits what it leaves out, so at the top only what names the file is always required.
    required = [n for n, c in named.items() if c.field and c.field.required and (path or n in ("schema_version", "id"))]
    return {**schema, "required": required} if required else schema


def _child(node: Node, path: str) -> dict[str, Any]:
    return _table(node, path) if node.field is None else _field(node.field)


def _field(field: Field) -> dict[str, Any]:
    if field.type in ("figure", "shape"):
        return {"description": field.about, "oneOf": [{"enum": ["unknown", "none"]}, _figure(field)]}
    schema: dict[str, Any] = {"description": field.about, **_PLAIN[field.type]}
    if field.choices and field.type == "integer":
        schema["enum"] = [int(choice) for choice in field.choices]
    elif field.choices and field.type == "texts":
        schema["items"] = {"enum": list(field.choices)}
    elif field.choices:
        schema["enum"] = list(field.choices)
    return schema


def _figure(field: Field) -> dict[str, Any]:
    origin = {key: {"$ref": f"#/$defs/{key}"} for key in ("src", "kind", "date", "note")}
    if field.type == "shape":
        sizes = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 3}
        properties, required = {"value": sizes, **origin}, ["value", "src"]
    else:
        unit = {"enum": list(units_of(field.dimension))}
        properties, required = {"value": {"type": "number"}, "unit": unit, **origin}, ["value", "unit", "src"]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
