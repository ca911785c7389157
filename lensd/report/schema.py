"""The JSON Schema (draft 2020-12) of the log's lines, as it ships in the package."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def load() -> dict[str, Any]:
    """The schema that every line is valid under. Shared: do not change it."""
    text = files("lensd.report").joinpath("events.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def events() -> list[str]:
    """The names of all events, in the order of the schema."""
    return [choice["$ref"].rpartition("/")[2] for choice in load()["oneOf"]]


def of_event(event: str) -> dict[str, Any]:
    """The schema of one event's lines: its faults read better than those of `load()`."""
    if event not in events():
        raise KeyError(event)
    return {"$ref": f"#/$defs/{event}", "$defs": load()["$defs"]}
