"""Metrics in the text format that Prometheus reads (version 0.0.4).

lensd does not use Prometheus's client library, because that loads http.server and ssl: 2.5 MB more
in a daemon that is to stay small.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, Protocol

Values = tuple[str, ...]  # one for each label, in the order of the labels' names


class Metric(Protocol):
    """A metric that can be written."""

    def lines(self) -> Iterator[str]: ...


@dataclass(slots=True)
class Family:
    """A metric with one number for each combination of label values."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: Values = ()
    numbers: dict[Values, float] = field(default_factory=dict)

    def add(self, amount: float, *values: str) -> None:
        """Add to the number for these label values, which begins at 0."""
        self.numbers[values] = self.numbers.get(values, 0) + amount

    def lines(self) -> Iterator[str]:
        """Yield the metric in the text format."""
        yield from _head_lines(self.name, self.kind, self.meaning)
        for values, number in self.numbers.items():
            yield _sample_line(self.name, zip(self.labels, values, strict=True), number)


@dataclass(slots=True)
class Histogram:
    """A metric with one label that counts how many numbers were at most each of the `bounds`.

    The bounds ascend. `counts` has one more entry, for numbers above the last bound.
    """

    name: str
    meaning: str
    label: str
    bounds: Sequence[float]
    counts: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def observe(self, number: float, value: str) -> None:
        """Count a number for this label value."""
        counts = self.counts.setdefault(value, [0] * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, number)] += 1
        self.sums[value] = self.sums.get(value, 0) + number

    def lines(self) -> Iterator[str]:
        """Yield the metric in the text format."""
        yield from _head_lines(self.name, "histogram", self.meaning)
        for value, counts in self.counts.items():
            label = (self.label, value)
            for bound, count in zip((*self.bounds, "+Inf"), accumulate(counts), strict=True):
                yield _sample_line(f"{self.name}_bucket", (label, ("le", str(bound))), count)
            yield _sample_line(f"{self.name}_sum", (label,), self.sums[value])
            yield _sample_line(f"{self.name}_count", (label,), sum(counts))


def text(metrics: Iterable[Metric]) -> bytes:
    """Return the metrics in the text format."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines()).encode()


def _head_lines(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"


def _sample_line(name: str, labels: Iterable[tuple[str, str]], number: float) -> str:
    pairs = ",".join(f'{label}="{_escape(value)}"' for label, value in labels)
    return f"{name}{{{pairs}}} {float(number)!r}" if pairs else f"{name} {float(number)!r}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
