"""The JSON Schemas (draft 2020-12) of log lines and of `--json` outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from lensd.engine.results import Comparison
from lensd.report.documents import Report, Status, Verification

OUTPUTS = ("status", "report", "verify", "analyze", "compress", "compare")
DOCUMENTS = {"status": Status, "report": Report, "verify": Verification, "compare": Comparison}


@cache
def load() -> dict[str, Any]:
    """The schema of every line of the log. Callers share the object: do not change it."""
    return _read("lensd.logs", "events.schema.json")


def events() -> list[str]:
    """The names of the events, in the order of the schema."""
    return [choice["$ref"].rpartition("/")[2] for choice in load()["oneOf"]]


def of_event(event: str) -> dict[str, Any]:
    """The schema of the lines of one event. Its validation errors are clearer than `load`'s."""
    if event not in events():
        raise KeyError(event)
    return {"$ref": f"#/$defs/{event}", "$defs": load()["$defs"]}


def of_output(verb: str) -> dict[str, Any]:
    """The schema of the `--json` output of a command, or of each line of it.

    It contains all definitions that it refers to.
    """
    if verb not in OUTPUTS:
        raise KeyError(verb)
    if verb in DOCUMENTS:
        return _generated(verb)
    own = _read("lensd.report", f"schemas/{verb}.schema.json")
    return own | {"$defs": _complete(own)}


def _generated(verb: str) -> dict[str, Any]:
    """The schema of a command's document, from its type."""
    found = msgspec.json.schema(DOCUMENTS[verb])
    for part in found["$defs"].values():
        _require_all_fields(part)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lensd:{verb}:1",
        **found,
    }


def _require_all_fields(part: dict[str, Any]) -> None:
    """An output has no other fields than those of its type, and has fields with defaults, too."""
    part["additionalProperties"] = False
    for name, field in part["properties"].items():
        if "default" in field:
            del field["default"]
            part.setdefault("required", []).append(name)


def _complete(own: dict[str, Any]) -> dict[str, Any]:
    """Its own definitions, and those that it refers to in the schema of the log."""
    found: dict[str, Any] = dict(own.get("$defs", {}))
    wanted = set(_references(own))
    while missing := wanted - set(found):
        for name in sorted(missing):
            found[name] = load()["$defs"][name]
            wanted |= set(_references(found[name]))
    return found


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference.removeprefix("#/$defs/")
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _references(inner)


def _read(package: str, name: str) -> dict[str, Any]:
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
