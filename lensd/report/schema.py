"""The JSON Schemas (draft 2020-12) of the log's lines and of every `--json`, from the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

OUTPUTS = ("status", "report", "verify", "analyze", "compress", "compare")


@cache
def load() -> dict[str, Any]:
    """The schema that every line of the log is valid under. Shared: do not change it."""
    return _read("lensd.logs", "events.schema.json")


def events() -> list[str]:
    """The names of all events, in the order of the schema."""
    return [choice["$ref"].rpartition("/")[2] for choice in load()["oneOf"]]


def of_event(event: str) -> dict[str, Any]:
    """The schema of one event's lines: its faults read better than those of `load()`."""
    if event not in events():
        raise KeyError(event)
    return {"$ref": f"#/$defs/{event}", "$defs": load()["$defs"]}


def of_output(verb: str) -> dict[str, Any]:
    """The schema of what a verb prints with `--json`: of the document, or of each of its lines.

    It stands for itself: what it shares with the log is put into it.
    """
    if verb not in OUTPUTS:
        raise KeyError(verb)
    own = _read("lensd.report", f"schemas/{verb}.schema.json")
    return own | {"$defs": _complete(own)}


def _complete(own: dict[str, Any]) -> dict[str, Any]:
    """Its definitions, and those of the log that it refers to."""
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
