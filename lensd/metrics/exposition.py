"""Families of samples in the text format that Prometheus reads (version 0.0.4).

Written here, since the client library brings http.server and ssl along: 2.5 MB of the 50 that the
daemon may have.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, Protocol

Values = tuple[str, ...]  # of the labels, in the order of their names


class Lines(Protocol):
    """What a family is to the writer."""

    def lines(self) -> Iterator[str]: ...


@dataclass(slots=True)
class Family:
    """A metric with one number for each combination of its labels' values."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: Values = ()
    numbers: dict[Values, float] = field(default_factory=dict)

    def add(self, amount: float, *values: str) -> None:
        """Count up, from 0."""
        self.numbers[values] = self.numbers.get(values, 0) + amount

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.kind, self.meaning)
        for values, number in self.numbers.items():
            yield _sample(self.name, zip(self.labels, values, strict=True), number)


@dataclass(slots=True)
class Histogram:
    """How often a number was at most each of `bounds`, which rise; with one label."""

    name: str
    meaning: str
    label: str
    bounds: Sequence[float]
    counts: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def observe(self, number: float, value: str) -> None:
        counts = self.counts.setdefault(value, [0] * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, number)] += 1
        self.sums[value] = self.sums.get(value, 0) + number

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, "histogram", self.meaning)
        for value, counts in self.counts.items():
            label = (self.label, value)
            for bound, count in zip((*self.bounds, "+Inf"), accumulate(counts), strict=True):
                yield _sample(f"{self.name}_bucket", (label, ("le", str(bound))), count)
            yield _sample(f"{self.name}_sum", (label,), self.sums[value])
            yield _sample(f"{self.name}_count", (label,), sum(counts))


def text(families: Iterable[Lines]) -> bytes:
    """The whole file."""
    return "".join(f"{line}\n" for family in families for line in family.lines()).encode()


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, labels: Iterable[tuple[str, str]], number: float) -> str:
    inside = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels)
    return f"{name}{{{inside}}} {float(number)!r}" if inside else f"{name} {float(number)!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
