"""The JSON Schema (draft 2020-12) of the log's lines, made from `lensd.logs.events`.

`python -m tests.docs.rendering` writes it to events.schema.json beside this module, which is what
`lensd schema log` prints.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import msgspec

from lensd.logs import events
from lensd.logs.json_line import is_path, twin_of
from lensd.logs.measures import Measures, Sha256

Schema: TypeAlias = dict[str, Any]

_REFERENCE = "#/$defs/"
# Kinds of text and number with a name; the schemas of `--json` refer to some of them.
_SCALARS: Schema = {
    "code": events.Code,
    "job_id": events.JobId,
    "job_id_or_null": events.JobIdOrNull,
    "sha256": Sha256,
}
_BASE64: Schema = {
    "type": "string",
    "contentEncoding": "base64",
    "description": "the bytes of a name that is not UTF-8; its text has backslash escapes",
}


def log_schema() -> Schema:
    """The schema of a line, which is one of the events."""
    kinds = (events.Line, Measures, *events.EVENTS)
    _, found = msgspec.json.schema_components(kinds, ref_template=_REFERENCE + "{name}")
    scalars = {name: _simplified(msgspec.json.schema(kind), {}) for name, kind in _SCALARS.items()}
    parts = {name: _simplified(part, scalars) for name, part in found.items()}
    line, measures = parts.pop("Line"), parts.pop("Measures")
    of_event = {
        events.name_of(kind): _event(line, parts.pop(kind.__name__)) for kind in events.EVENTS
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lensd:events:{events.SCHEMA}",
        "title": "One line of lensd's log",
        "oneOf": [{"$ref": _REFERENCE + name} for name in of_event],
        "$defs": {
            **scalars,
            "base64": _BASE64,
            **{_snake_case(name): _closed(part) for name, part in parts.items()},
            "measures": measures,  # open: `lensd analyze --json` and `compress --json` add fields
            **of_event,
        },
    }


def _event(line: Schema, event: Schema) -> Schema:
    """All fields of an event's line, and no others."""
    properties = line["properties"] | event["properties"]
    twins = {twin_of(name): {"$ref": _REFERENCE + "base64"} for name in properties if is_path(name)}
    required = dict.fromkeys((*line["required"], *event["required"]))
    return _closed(event | {"properties": properties | twins, "required": list(required)})


def _closed(part: Schema) -> Schema:
    return part | {"additionalProperties": False} if part.get("type") == "object" else part


def _simplified(part: Any, scalars: Schema) -> Any:
    """What msgspec writes, in fewer words, with lensd's names and references to `scalars`."""
    if isinstance(part, list):
        return [_simplified(inner, scalars) for inner in part]
    if not isinstance(part, dict):
        return part
    found: Schema = {k: _simplified(v, scalars) for k, v in part.items() if k != "title"}
    if isinstance(text := found.get("description"), str):
        found["description"] = " ".join(text.partition("\n\n")[0].split())
    if "anyOf" in found:
        found |= _united(*found.pop("anyOf"))
    if isinstance(values := found.get("enum"), list) and len(values) == 1:
        found["const"] = found.pop("enum")[0]
    if isinstance(reference := found.get("$ref"), str):
        name = reference.removeprefix(_REFERENCE)
        found["$ref"] = _REFERENCE + _snake_case(name)
    return _referring(found, scalars)


def _united(first: Schema, second: Schema) -> Schema:
    """Of two choices: null besides a value, or an integer that is a number too."""
    if second == {"type": "null"}:
        return first | {"type": [first["type"], "null"]}
    if first == second | {"type": "integer"} and second["type"] == "number":
        return second
    raise NotImplementedError(f"a union of {first} and {second}")


def _referring(part: Schema, scalars: Schema) -> Schema:
    """A reference, if a scalar says the same; words about a scalar that has none are kept."""
    own = {k: v for k, v in part.items() if k != "description"}
    for name, scalar in scalars.items():
        if part == scalar:
            return {"$ref": _REFERENCE + name}
        if own == scalar:
            return {"$ref": _REFERENCE + name, "description": part["description"]}
    return part


def _snake_case(name: str) -> str:
    """`FloatBecause` -> `float_because`; a name that is in lower case stays."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
