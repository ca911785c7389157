"""Every promise is shown by a test that causes its fault for real."""

from __future__ import annotations

from tests.faults.promises import PROMISES
from tests.faults.results import causes


def test_each_fault_has_a_test_and_each_mark_a_promise() -> None:
    """No row without a test, no mark with a name that nobody promised anything for."""
    assert set(causes()) == set(PROMISES)
