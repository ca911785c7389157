"""The dashboard for Grafana asks only for metrics and labels that lensd writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lensd.metrics.exposition import Family
from tests.docs.rendering import REPOSITORY
from tests.support import prometheus

DASHBOARD = json.loads((REPOSITORY / "docs/grafana-lensd.json").read_text(encoding="utf-8"))


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


def labels_by_name() -> dict[str, set[str]]:
    """The names of all samples, with their labels."""
    found: dict[str, set[str]] = {}
    for family in prometheus.families():
        if isinstance(family, Family):
            found[family.name] = set(family.labels)
        else:
            found[f"{family.name}_bucket"] = {family.label, "le"}
    return found


def test_each_metric_and_label_exists() -> None:
    """In expressions, groupings and legends."""
    known = labels_by_name()
    for expression, legend in expressions():
        names = set(re.findall(r"\blensd_\w+", expression))
        assert names
        assert names <= set(known), expression
        labels = {label for name in names for label in known[name]}
        used = [w for group in re.findall(r"by \(([^)]*)\)", expression) for w in group.split(", ")]
        used += re.findall(r"[{,](\w+)[!=]", expression) + re.findall(r"\{\{(\w+)\}\}", legend)
        assert set(used) <= labels, (expression, legend)


def test_counters_are_rates_and_gauges_are_not() -> None:
    """A counter begins at 0 with each start."""
    kinds = {f.name: getattr(f, "kind", "histogram") for f in prometheus.families()}
    for expression, _ in expressions():
        for name in re.findall(r"\blensd_\w+", expression):
            kind = kinds.get(name, "histogram")
            assert (kind == "gauge") != (f"increase({name}" in expression), expression


def test_panels_do_not_overlap_and_name_no_machine() -> None:
    """Each cell of the grid has one panel; the source of data is chosen at the import."""
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells
        assert place["x"] + place["w"] <= 24
        cells |= own
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
