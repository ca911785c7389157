"""What people start from: the commented example and the JSON Schema, both made from the models."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from lensd.config.document import Document, Settings, WatchEntry
from lensd.config.messages import section_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

_WIDTH = 88
# The form is that of the YAML language server, which most editors use. A path is one beside the
# file: nothing is fetched from a network.
SCHEMA_FILE = "lensd.schema.json"
_MODELINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"
_EDITORS = "Many editors complete and check this file when its schema lies beside it:"
_HEAD = """\
The configuration of lensd. Change what you need, then test it with: lensd check. Every key
but `path` may be left out, and then has the value that is written here."""
_OVERRIDES = "Any key of `defaults` below can be set here for this folder alone, for example:"


def example() -> str:
    """A complete configuration with every key, its default and its meaning in plain words."""
    blocks = ["\n".join(_for_editors()), "\n".join(_comment(_HEAD, ""))]
    for name, field in Document.model_fields.items():
        lines = [*_comment(field.description or "", ""), f"{name}:"]
        lines += _entry() if name == "watch" else _section(name)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the file, for editors."""
    found = Document.model_json_schema()
    own_keys = found["$defs"][WatchEntry.__name__]["properties"]
    for key in Settings.model_fields:
        # Left out, a folder's key follows `defaults`: no fixed default is true here.
        own_keys[key].pop("default", None)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | found | {"title": "lensd configuration"}


def _for_editors() -> Iterator[str]:
    yield _MODELINE
    yield from _comment(_EDITORS, "")
    yield f"#   lensd config schema > {SCHEMA_FILE}"


def _entry() -> Iterator[str]:
    """One watched folder as a list item, its first key after the dash."""
    own = {name: field for name, field in WatchEntry.model_fields.items() if name not in _SHARED}
    for name, field in own.items():
        yield from _key(name, field, "    ", "  - " if name == "path" else "    ")
    yield from _comment(_OVERRIDES, "    ")
    yield "    # mode: analyze"


_SHARED = frozenset(Settings.model_fields)


def _section(name: str) -> Iterator[str]:
    model: type[BaseModel] | None = section_at((name,))
    for key, field in model.model_fields.items() if model else ():
        yield from _key(key, field, "  ", "  ")


def _key(name: str, field: FieldInfo, indent: str, lead: str) -> Iterator[str]:
    yield from _comment(field.description or "", lead if lead.strip() == "" else "  ")
    value = field.examples[0] if field.examples else field.get_default()
    yield f"{lead if lead.strip() else indent}{name}: {_written(name, value)}"


def _written(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_written(name, item) for item in value)}]"
    if isinstance(value, str) and (name in ("include", "exclude") or value[0].isdigit()):
        return json.dumps(value)
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _comment(text: str, indent: str) -> list[str]:
    lead = f"{indent}# "
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=lead,
        subsequent_indent=lead,
        break_on_hyphens=False,
    )
