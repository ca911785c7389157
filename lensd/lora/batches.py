"""Group modules of one shape into batches that are computed together.

The grouping depends on the file, the settings and the kind of device alone, never on free memory:
the number of modules in a batch may change the last bits of a result.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")

# Most elements in a batch, of both factors together: 16 MB as float64. A module with more
# elements is a batch of its own.
ELEMENTS = 2**21


def batches(
    items: Iterable[T],
    key: Callable[[T], Hashable],
    elements: Callable[[T], int],
    limit: int = ELEMENTS,
) -> list[list[T]]:
    """Group items of equal key, in their order, into batches of at most `limit` elements."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [b for group in groups.values() for b in _split_by_size(group, elements, limit)]


def _split_by_size(group: list[T], elements: Callable[[T], int], limit: int) -> list[list[T]]:
    result: list[list[T]] = []
    remaining = 0
    for item in group:
        size = elements(item)
        if size > remaining:
            result.append([])
            remaining = limit
        result[-1].append(item)
        remaining -= size
    return result
