"""Which modules are worked out side by side: those of one shape, a few at a time.

A fixed rule of the file and the settings, never of free memory: how many there are together may
show in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")

# Of both factors together. As float64 16 MB; a single larger module is a batch of its own.
ELEMENTS = 2**21


def batches(
    items: Iterable[T], kind: Callable[[T], Hashable], elements: Callable[[T], int]
) -> list[list[T]]:
    """Items of one kind, in their order, with at most ELEMENTS elements together."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(kind(item), []).append(item)
    return [batch for group in groups.values() for batch in _cut(group, elements)]


def _cut(group: list[T], elements: Callable[[T], int]) -> list[list[T]]:
    result: list[list[T]] = []
    room = 0
    for item in group:
        size = elements(item)
        if size > room:
            result.append([])
            room = ELEMENTS
        result[-1].append(item)
        room -= size
    return result
