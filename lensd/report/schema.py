"""The JSON Schemas (draft 2020-12) of log lines and of `--json` outputs."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

# The commands with `--json`.
OUTPUTS = ("status", "report", "verify", "analyze", "compress", "compare")
_REFERENCE = "#/$defs/{name}"


@cache
def load() -> dict[str, Any]:
    """The schema of every line of the log. Callers share the object: do not change it."""
    text = files("lensd.logs").joinpath("events.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def events() -> list[str]:
    """The names of the events, in the order of the schema."""
    return [choice["$ref"].rpartition("/")[2] for choice in load()["oneOf"]]


def of_event(event: str) -> dict[str, Any]:
    """The schema of the lines of one event. Its validation errors are clearer than `load`'s."""
    if event not in events():
        raise KeyError(event)
    return {"$ref": f"#/$defs/{event}", "$defs": load()["$defs"]}


def of_output(verb: str) -> dict[str, Any]:
    """The schema of the `--json` output of a command, or of each line of it."""
    import msgspec

    kinds = _documents()[verb]
    references, parts = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    for part in parts.values():
        if part.get("type") == "object":
            _close(part)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lensd:{verb}:1",
        **(references[0] if len(references) == 1 else {"oneOf": list(references)}),
        "$defs": parts,
    }


def _documents() -> dict[str, tuple[type, ...]]:
    """The types of the documents of each command."""
    # These imports take 0.05 s, which `lensd schema --help` does not need.
    from lensd.engine.results import Comparison
    from lensd.report import documents

    return {
        "status": (documents.Status,),
        "report": (documents.Report,),
        "verify": (documents.Verification,),
        "analyze": (documents.Analysis, documents.Unprocessed),
        "compress": (documents.Compression, documents.Unprocessed),
        "compare": (Comparison,),
    }


def _close(part: dict[str, Any]) -> None:
    """An output has all fields of its type, also those with defaults, and no others."""
    part["additionalProperties"] = False
    for name, field in part["properties"].items():
        if "default" in field:
            del field["default"]
            part.setdefault("required", []).append(name)
