"""A textfile as Prometheus reads it, and all metrics of lensd."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from lensd.metrics.counts import Counts
from lensd.metrics.exposition import Family, Histogram
from lensd.metrics.gauges import Gauges
from lensd.store.ledger import Ledger

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Textfile:
    """Samples by name and labels. Raises ValueError for a file that Prometheus would refuse."""

    def __init__(self, path: Path) -> None:
        self._samples: Samples = {}
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            if not family.documentation or family.type == "unknown":
                raise ValueError(f"{family.name} has no HELP or no TYPE")
            for sample in family.samples:
                self._samples[sample.name, frozenset(sample.labels.items())] = sample.value

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self._samples}

    def get(self, name: str, **labels: str) -> float:
        """The one sample with exactly these labels; 0 if there is none."""
        return self._samples.get((name, frozenset(labels.items())), 0.0)

    def sum(self, name: str, **labels: str) -> float:
        """The sum over all samples with these labels, whatever others they have."""
        wanted = set(labels.items())
        return sum(v for (n, found), v in self._samples.items() if n == name and wanted <= found)


def families() -> list[Family | Histogram]:
    """All metrics of lensd, in the order of the file."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Ledger(folder, "0.1.0")) as ledger,
    ):
        now = list(Gauges("0.1.0", ledger, ("loras",), tuple).families(up=True))
    return [*now, *Counts(("loras",)).families]
