"""Parse YAML into plain values and the line of every key.

Tags, merge keys and duplicate keys are faults, so a file can neither run code nor hide a value.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import yaml

from lensd.config.faults import Fault

Location = tuple[str | int, ...]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PREFIX = "tag:yaml.org,2002:"
_SCALARS = {_PREFIX + name for name in ("null", "bool", "int", "float", "str", "timestamp")}
# A configuration has a few hundred values in four levels. Aliases can multiply both without limit.
_MAX_BYTES = 1_000_000
_MAX_NODES = 20_000
_MAX_DEPTH = 30


@dataclass
class ParsedText:
    """The values of a YAML text, their lines, and its faults."""

    data: Any = None  # of dict, list, str, int, float, bool and None
    lines: dict[Location, int] = field(default_factory=dict)  # 1-based
    faults: list[Fault] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)  # keys whose value has a fault

    def line(self, location: Location) -> int:
        """Return the line of a key, or of the innermost key around it that is in the text."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


class _TooLargeError(Exception):
    """Aliases make the document too large, or it contains itself."""


def key_of(location: Location) -> str:
    """Return a location as text: 'watch[0].path' for ('watch', 0, 'path')."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse(raw: bytes) -> ParsedText:
    """Parse one YAML document.

    A syntax fault is the only fault of its result, which has no values then.
    """
    if len(raw) > _MAX_BYTES:
        return _whole_file_fault(
            1, "the file is too large for a configuration", "check the name of the file"
        )
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return _whole_file_fault(line, "the text is not UTF-8", "save the file as UTF-8")
    try:
        return _Reader().read(yaml.compose(content, Loader=_LOADER))
    except yaml.YAMLError as error:
        return _syntax_fault(content, error)
    except (_TooLargeError, RecursionError):
        message = "the document is nested too deeply or too large"
        return _whole_file_fault(1, message, "write the values without aliases (*name)")


def _whole_file_fault(line: int, message: str, remedy: str) -> ParsedText:
    return ParsedText(faults=[Fault(line, "", message, remedy)])


def _syntax_fault(content: str, error: yaml.YAMLError) -> ParsedText:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else content.count("\n", 0, getattr(error, "position", 0)) + 1
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    remedy = _syntax_remedy(content, line, reason)
    return _whole_file_fault(line, f"not valid YAML: {reason}", remedy)


def _syntax_remedy(content: str, line: int, reason: str) -> str:
    lines = content.splitlines()
    text = lines[line - 1] if line <= len(lines) else ""
    if "\t" in text[: len(text) - len(text.lstrip())]:
        return "indent with spaces; YAML does not allow tabs for that"
    if "mapping values" in reason:
        return "put quotes around a value that contains ': '"
    return "check the indentation, the quotes and the brackets of this line and the one above"


class _Reader:
    """Convert YAML nodes to values in one pass, and collect their lines and faults."""

    def __init__(self) -> None:
        self._text = ParsedText()
        self._constructor = yaml.constructor.SafeConstructor()
        self._nodes_read = 0

    def read(self, node: yaml.Node | None) -> ParsedText:
        if node is not None:
            self._text.data = self._read_value(node, ())
        return self._text

    def _read_value(self, node: yaml.Node, at: Location) -> Any:
        self._nodes_read += 1
        if self._nodes_read > _MAX_NODES or len(at) > _MAX_DEPTH:
            raise _TooLargeError
        self._text.lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return self._read_sequence(node, at)
        return self._read_scalar(node, at)

    def _read_mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Any]:
        self._check_tag(node, at, "map")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._read_key(key_node, at)
            if key is None:
                continue
            if key in result:
                self._add_duplicate_fault(key_node, (*at, key))
                continue
            self._text.lines[*at, key] = key_node.start_mark.line + 1
            result[key] = self._read_value(value_node, (*at, key))
        return result

    def _read_key(self, node: yaml.Node, at: Location) -> str | None:
        if node.tag == _PREFIX + "merge":
            remedy = "write each key, or write keys that all folders share under `defaults:`"
            self._add_fault(node, at, "merge keys (<<) are not supported", remedy)
        elif isinstance(node, yaml.ScalarNode):
            # The text, not the value: YAML reads an unquoted `on` or `no` as a boolean.
            return str(node.value)
        else:
            remedy = "remove the `?` or the brackets"
            self._add_fault(node, at, "a key must be a plain word", remedy)
        return None

    def _read_sequence(self, node: yaml.SequenceNode, at: Location) -> list[Any]:
        self._check_tag(node, at, "seq")
        return [self._read_value(item, (*at, index)) for index, item in enumerate(node.value)]

    def _read_scalar(self, node: yaml.Node, at: Location) -> Any:
        if node.tag not in _SCALARS:
            return self._add_tag_fault(node, at)
        try:
            value = self._constructor.construct_object(node)
        except (ValueError, KeyError, IndexError, OverflowError):
            self._text.unread.add(key_of(at))
            message = f"{node.value!r} is no valid number or date"
            self._add_fault(node, at, message, "correct it, or put it in quotes")
            return None
        return str(node.value) if isinstance(value, dt.date) else value

    def _check_tag(self, node: yaml.Node, at: Location, expected: str) -> None:
        if node.tag != _PREFIX + expected:
            self._add_tag_fault(node, at)

    def _add_tag_fault(self, node: yaml.Node, at: Location) -> None:
        self._text.unread.add(key_of(at))
        remedy = "remove the `!` and the word after it"
        self._add_fault(node, at, f"the tag {node.tag!r} is not allowed", remedy)

    def _add_duplicate_fault(self, node: yaml.Node, at: Location) -> None:
        message = f"this key is in the section twice, first in line {self._text.lines[at]}"
        self._add_fault(node, at, message, "remove one of the two")

    def _add_fault(self, node: yaml.Node, at: Location, message: str, remedy: str) -> None:
        self._text.faults.append(Fault(node.start_mark.line + 1, key_of(at), message, remedy))
