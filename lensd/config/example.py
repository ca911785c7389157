"""Make the commented example and the JSON Schema of the configuration from its models."""

from __future__ import annotations

import json
import math
import textwrap
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from lensd.config.document import Document
from lensd.config.messages import section_at
from lensd.config.settings import Settings, WatchEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo

_WIDTH = 88
# The first line names the schema in the form of the YAML language server, which most editors use.
# The path is that of a file in the same folder: nothing is fetched from a network.
SCHEMA_FILE = "lensd.schema.json"
_MODELINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"
_EDITORS = "Many editors complete and check this file if its schema is in the same folder:"
_HEAD = """\
The configuration of lensd. Change what you need, then check it with: lensd check. Every key
except `path` may be left out; it then has the value that is written here."""
_WRITTEN_HEAD = """\
The configuration of lensd, made by `lensd init`. Change what you need, then check it with: lensd
check."""
_OVERRIDES = "Any key of `defaults` below can be set here for this folder alone, for example:"


def example(values: Document | None = None) -> str:
    """Return a complete configuration: every key below its description.

    The values are those of a document, or else the defaults.
    """
    head = _HEAD if values is None else _WRITTEN_HEAD
    blocks = ["\n".join(_render_editor_lines()), "\n".join(_comment(head, ""))]
    for name, field in Document.model_fields.items():
        lines = [*_comment(field.description or "", ""), f"{name}:"]
        part = None if values is None else getattr(values, name)
        lines += _render_watch(part or [None]) if name == "watch" else _render_section(name, part)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the file, for editors."""
    result = Document.model_json_schema()
    watch_keys = result["$defs"][WatchEntry.__name__]["properties"]
    for key in Settings.model_fields:
        # A key that a folder leaves out has the value of `defaults`, so it has no fixed default.
        watch_keys[key].pop("default", None)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | result | {"title": "lensd configuration"}


def _render_editor_lines() -> Iterator[str]:
    yield _MODELINE
    yield from _comment(_EDITORS, "")
    yield f"#   lensd config schema > {SCHEMA_FILE}"


def _render_watch(entries: Sequence[WatchEntry | None]) -> Iterator[str]:
    """Yield the lines of the watched folders; only the first one has all keys and comments."""
    first, *others = entries
    yield from _render_watch_entry(first)
    for entry in others:
        yield ""
        dash = "  - "
        for key in ("path", "name", "existing"):
            yield f"{dash}{key}: {_render_value(key, getattr(entry, key))}"
            dash = "    "


def _render_watch_entry(entry: WatchEntry | None) -> Iterator[str]:
    """Yield the lines of one watched folder, a list item that begins with the key `path`."""
    for name, field in WatchEntry.model_fields.items():
        if name not in _SHARED_KEYS:
            yield from _render_key(name, field, entry, "    ", dash=name == "path")
    yield from _comment(_OVERRIDES, "    ")
    yield "    # mode: analyze"


_SHARED_KEYS = frozenset(Settings.model_fields)


def _render_section(name: str, values: BaseModel | None) -> Iterator[str]:
    model: type[BaseModel] | None = section_at((name,))
    for key, field in model.model_fields.items() if model else ():
        yield from _render_key(key, field, values, "  ")


def _render_key(
    name: str, field: FieldInfo, values: BaseModel | None, indent: str, *, dash: bool = False
) -> Iterator[str]:
    """Yield the description as a comment, and the key; with `dash` it begins a list item."""
    yield from _comment(field.description or "", "  " if dash else indent)
    default = field.examples[0] if field.examples else field.get_default()
    value = default if values is None else getattr(values, name)
    key = name if _is_plain(name) else f'"{name}"'  # `on` is true for many readers of YAML
    yield f"{'  - ' if dash else indent}{key}: {_render_value(name, value)}"


def _render_value(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_render_value(name, item) for item in value)}]"
    if isinstance(value, BaseModel):
        return json.dumps(value.model_dump())
    if not isinstance(value, str):
        return json.dumps(value)
    if name in ("include", "exclude") or not _is_plain(value):
        return str(
            yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf)
        ).rstrip("\n")
    return value


def _is_plain(text: str) -> bool:
    """Whether YAML reads the text as itself without quotes, also in a list."""
    try:
        return not text[:1].isdigit() and bool(yaml.safe_load(f"[{text}]") == [text])
    except yaml.YAMLError:
        return False


def _comment(text: str, indent: str) -> list[str]:
    lead = f"{indent}# "
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=lead,
        subsequent_indent=lead,
        break_on_hyphens=False,
    )
