"""The format of the log for lnav (https://lnav.org), made from the schema of the log."""

from __future__ import annotations

from typing import Any

from lensd.logs.schema import Schema, log_schema

_KINDS = {"string": "string", "integer": "integer", "number": "float", "boolean": "boolean"}
_SHOWN = ("event", "path", "reason", "ratio", "message")
_SAMPLE = (
    '{"timestamp": "2026-01-31T18:00:00.000000Z", "level": "info", "event": "daemon.ready", '
    '"schema": 1, "watches": ["loras"], "queued": 0, "seconds": 0.4}'
)


def lnav_format() -> dict[str, Any]:
    """Return what `lnav -i` installs: all fields, for its queries, and one line for each event."""
    values: dict[str, dict[str, Any]] = {}
    found = log_schema()
    for choice in found["oneOf"]:
        event = found["$defs"][choice["$ref"].rpartition("/")[2]]
        for name, part in event["properties"].items():
            kind = _kind(part, found["$defs"])
            value = values.setdefault(name, {"kind": kind, "hidden": name not in _SHOWN})
            if value["kind"] != kind:  # `seconds` is a number, or an object of numbers
                value["kind"] = "json"
    for name in ("timestamp", "level", "schema"):
        values.pop(name)
    values["event"]["identifier"] = True
    return {
        "$schema": "https://lnav.org/schemas/format-v1.schema.json",
        "lensd_log": {
            "title": "lensd",
            "description": "The log of lensd, a daemon that makes LoRA files smaller",
            "json": True,
            "hide-extra": True,
            "timestamp-field": "timestamp",
            "level-field": "level",
            "body-field": "message",
            "opid-field": "job_id",
            "line-format": [
                {"field": "__timestamp__"},
                " ",
                {"field": "__level__", "min-width": 8},
                {"field": "event", "min-width": 18},
                " ",
                {"field": "path", "default-value": ""},
                {"prefix": " ", "field": "reason", "default-value": ""},
                {"prefix": " ", "field": "ratio", "default-value": ""},
                {"prefix": ": ", "field": "message", "default-value": ""},
            ],
            "value": values,
            "sample": [{"line": _SAMPLE}],
        },
    }


def _kind(part: Schema, definitions: Schema) -> str:
    """The kind of a column: what is no plain value is JSON."""
    if "$ref" in part:
        return _kind(definitions[part["$ref"].rpartition("/")[2]], definitions)
    if "enum" in part:
        return "string"
    kinds = part.get("type", [choice.get("type") for choice in part.get("anyOf", ())])
    known = [k for k in ([kinds] if isinstance(kinds, str) else kinds) if k != "null"]
    return _KINDS.get(known[0] if known else "", "json")
