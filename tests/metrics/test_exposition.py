"""lensd.metrics.exposition: the text format, as Prometheus's client library reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.parser import text_string_to_metric_families

from lensd.metrics.exposition import Family, Histogram, text
from tests.support.prometheus import Textfile

NUMBERS = st.floats(0, 1e18, allow_nan=False)


@given(st.dictionaries(st.tuples(st.text(), st.text()), NUMBERS, max_size=5))
def test_any_label_and_any_number_is_read_back(numbers: dict[tuple[str, ...], float]) -> None:
    """Labels may have quotes, backslashes and line breaks; no digit of a number is lost."""
    family = Family("a_bytes", "gauge", "What it is.", ("x", "y"), numbers)
    [found] = text_string_to_metric_families(text([family]).decode())
    assert (found.name, found.type, found.documentation) == ("a_bytes", "gauge", "What it is.")
    assert {(s.labels["x"], s.labels["y"]): s.value for s in found.samples} == numbers


@given(st.lists(st.floats(0, 2, allow_nan=False), min_size=1, max_size=20))
def test_a_histogram_is_that_of_the_client_library(observed: list[float]) -> None:
    """A bucket counts the numbers that are at most its bound."""
    ours = Histogram("a_ratio", "x", "mode", (0.1, 0.5, 1.0))
    registry = CollectorRegistry()
    theirs = TheirHistogram("a_ratio", "x", ["mode"], buckets=(0.1, 0.5, 1.0), registry=registry)
    for number in observed:
        ours.observe(number, "ultra")
        theirs.labels("ultra").observe(number)
    assert _samples(text([ours])) == {
        key: value
        for key, value in _samples(generate_latest(registry)).items()
        if not key[0].endswith("_created")
    }


def test_a_counter_has_no_sample_before_it_counts(tmp_path: Path) -> None:
    """Before that the file has only its name."""
    family = Family("a_total", "counter", "x", ("y",))
    (tmp_path / "a.prom").write_bytes(text([family]))
    assert Textfile(tmp_path / "a.prom").names == set()
    family.add(2, "b")
    family.add(0.5, "b")
    (tmp_path / "a.prom").write_bytes(text([family]))
    assert Textfile(tmp_path / "a.prom").get("a_total", y="b") == 2.5


def test_too_many_label_values_raise_value_error() -> None:
    """That would be a bug of lensd."""
    family = Family("a_total", "counter", "x", ("y",))
    family.add(1, "b", "c")
    with pytest.raises(ValueError, match="longer"):
        text([family])


def _samples(content: bytes) -> dict[tuple[str, str, str], float]:
    families = text_string_to_metric_families(content.decode())
    return {
        (s.name, s.labels["mode"], s.labels.get("le", "")): s.value
        for family in families
        for s in family.samples
    }
