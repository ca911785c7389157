"""YAML text -> plain values and the line of every key; no tags, no code, no duplicate keys."""

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
# A hand-written configuration has some hundred values in four levels; aliases can multiply both.
_MAX_BYTES = 1_000_000
_MAX_NODES = 20_000
_MAX_DEPTH = 30


@dataclass
class Text:
    """What a YAML text says, and where it says it."""

    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)  # keys whose value could not be taken

    def line(self, location: Location) -> int:
        """The line of a key, or of the nearest key around it that is written down."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


class _TooLargeError(Exception):
    """Aliases blow the document up, or it holds itself."""


def key_of(location: Location) -> str:
    """('watch', 0, 'path') -> 'watch[0].path'."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse(raw: bytes) -> Text:
    """Read one YAML document. A syntax fault is the only fault then: nothing after it is known."""
    if len(raw) > _MAX_BYTES:
        return _broken(1, "the file is too large for a configuration", "check the file's name")
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return _broken(line, "the text is not UTF-8", "save the file as UTF-8")
    try:
        return _Walk().run(yaml.compose(content, Loader=_LOADER))
    except yaml.YAMLError as error:
        return _syntax_fault(content, error)
    except (_TooLargeError, RecursionError):
        return _broken(1, "the document is nested too deeply or too large", "write it out plainly")


def _broken(line: int, message: str, remedy: str) -> Text:
    return Text(faults=[Fault(line, "", message, remedy)])


def _syntax_fault(content: str, error: yaml.YAMLError) -> Text:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else content.count("\n", 0, getattr(error, "position", 0)) + 1
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    return _broken(line, f"not valid YAML: {reason}", _syntax_remedy(content, line, reason))


def _syntax_remedy(content: str, line: int, reason: str) -> str:
    lines = content.splitlines()
    indent = lines[line - 1] if line <= len(lines) else ""
    if "\t" in indent[: len(indent) - len(indent.lstrip())]:
        return "indent with spaces; YAML allows no tabs there"
    if "mapping values" in reason:
        return "put quotes around a value that holds ': '"
    return "check the indentation, the quotes and the brackets of this line and the one above"


class _Walk:
    """Nodes -> values, one pass; remembers lines, counts nodes, collects faults."""

    def __init__(self) -> None:
        self.text = Text()
        self.scalars = yaml.constructor.SafeConstructor()
        self.count = 0

    def run(self, node: yaml.Node | None) -> Text:
        if node is not None:
            self.text.data = self.value(node, ())
        return self.text

    def value(self, node: yaml.Node, at: Location) -> Any:
        self.count += 1
        if self.count > _MAX_NODES or len(at) > _MAX_DEPTH:
            raise _TooLargeError
        self.text.lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return self.sequence(node, at)
        return self.scalar(node, at)

    def mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Any]:
        self.plain(node, at, "map")
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.key(key_node, at)
            if key is None:
                continue
            if key in found:
                self.duplicate(key_node, (*at, key))
                continue
            self.text.lines[*at, key] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, (*at, key))
        return found

    def key(self, node: yaml.Node, at: Location) -> str | None:
        if node.tag == _PREFIX + "merge":
            remedy = "write the keys out, or put what all folders share under `defaults:`"
            self.fault(node, at, "merge keys (<<) are not supported", remedy)
        elif isinstance(node, yaml.ScalarNode):
            # The text, not the value: YAML reads an unquoted `on` or `no` as a boolean.
            return str(node.value)
        else:
            self.fault(node, at, "a key must be a plain word", "remove the `?` or the brackets")
        return None

    def sequence(self, node: yaml.SequenceNode, at: Location) -> list[Any]:
        self.plain(node, at, "seq")
        return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]

    def scalar(self, node: yaml.Node, at: Location) -> Any:
        if node.tag not in _SCALARS:
            return self.tag_fault(node, at)
        try:
            value = self.scalars.construct_object(node)
        except (ValueError, KeyError, IndexError, OverflowError):
            self.text.unread.add(key_of(at))
            self.fault(node, at, f"{node.value!r} is not what its form says", "put it in quotes")
            return None
        return str(node.value) if isinstance(value, dt.date) else value

    def plain(self, node: yaml.Node, at: Location, kind: str) -> None:
        if node.tag != _PREFIX + kind:
            self.tag_fault(node, at)

    def tag_fault(self, node: yaml.Node, at: Location) -> None:
        self.text.unread.add(key_of(at))
        self.fault(node, at, f"the tag {node.tag!r} is not allowed", "remove the `!` and its word")

    def duplicate(self, node: yaml.Node, at: Location) -> None:
        message = f"this key is written twice; the first time in line {self.text.lines[at]}"
        self.fault(node, at, message, "keep one of the two")

    def fault(self, node: yaml.Node, at: Location, message: str, remedy: str) -> None:
        self.text.faults.append(Fault(node.start_mark.line + 1, key_of(at), message, remedy))
