"""JSON Schema of a target file, for editors: plain figures or ``{value, source}``, and ``extends``."""

from __future__ import annotations

from typing import Any

from cimc.targets.description import Target

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """What a YAML file may say; rules between fields are checked at load only."""
    schema = Target.model_json_schema()
    sections: dict[str, Any] = schema.pop("$defs")
    schema.pop("required", None)  # a file without a name is called after itself
    for node in (schema, *sections.values()):
        _open(node)
    schema["properties"]["sources"] = {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "Where a figure comes from, by dotted path; the same as a source beside the figure.",
    }
    schema["properties"]["stated_for"] = {
        "type": "object",
        "additionalProperties": {"type": "object"},
        "description": "As a saved description has it: figures that were stated for other settings.",
    }
    _add_preset(schema["properties"]["device"])
    extends = {"type": "string", "description": "Name or path of the target that this one changes."}
    schema["properties"] = {"extends": extends} | schema["properties"]
    return {"$schema": DIALECT, **schema, "title": "cimc target", "$defs": sections}


def _add_preset(device: dict[str, Any]) -> None:
    """Let the section of each kind of device begin with a preset."""
    for kind in device.get("anyOf", []):
        _add_preset(kind)
        if "properties" in kind and "g_max_us" in kind["properties"]:
            preset = {"type": "string", "description": "A preset of cimc device presets, or the path of a target file."}
            kind["properties"] = {"preset": preset} | kind["properties"]


def _open(section: dict[str, Any]) -> None:
    """Let each figure of a section also be written with its source."""
    section["properties"] = {name: _figure(field) for name, field in section["properties"].items()}


def _figure(field: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in field:  # a section
        return {"$ref": field["$ref"], **({"description": field["description"]} if "description" in field else {})}
    for kind in field.get("anyOf", []):  # a section whose kind is chosen, where it is not referred to
        if "properties" in kind:
            _open(kind)
    about: dict[str, Any] = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
    sourced = {
        "type": "object",
        "properties": {"value": field, "source": {"type": "string"}},
        "required": ["value"],
        "additionalProperties": False,
    }
    return {**about, "anyOf": [field, sourced]}
