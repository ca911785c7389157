"""Writes documents as JSON, also those with lists that are larger than the memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


def to_json(document: object, *, indent: int | None = None) -> str:
    """A document as JSON. Control characters are escaped, so that they do not reach a terminal."""
    text = json.dumps(msgspec.to_builtins(document, enc_hook=list))
    return text if indent is None else msgspec.json.format(text, indent=indent)  # faster


class Listed(Collection[T], Generic[T]):
    """A list that may be larger than the memory: its items are made each time that it is read."""

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[T]:
        return self._make()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def __contains__(self, item: object) -> bool:
        return any(item == other for other in self)


def json_parts(document: msgspec.Struct) -> Iterator[str]:
    """The text of `to_json(document, indent=2)`, with the items of a `Listed` one by one."""
    before = "{\n  "
    for name in document.__struct_fields__:
        yield f'{before}"{name}": '
        before = ",\n  "
        value = getattr(document, name)
        if isinstance(value, Listed):
            yield from _list_parts(value)
        else:
            yield _indented(value, "  ")
    yield "\n}"


def _list_parts(items: Listed[object]) -> Iterator[str]:
    before = "[\n    "
    for item in items:
        yield before + _indented(item, "    ")
        before = ",\n    "
    yield "\n  ]" if before.startswith(",") else "[]"


def _indented(value: object, margin: str) -> str:
    return to_json(value, indent=2).replace("\n", f"\n{margin}")
