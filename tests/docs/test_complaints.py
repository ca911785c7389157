"""docs/decisions/0050-each-complaint-has-a-test.md names tests that there are."""

from __future__ import annotations

import pytest

from bench.complaints import TOP, complaints


@pytest.mark.parametrize("test", sorted({test for _, test in complaints()}))
def test_each_one_exists(test: str) -> None:
    """`python -m bench.complaints` runs them on the lensd from before the complaints."""
    file, _, name = test.partition("::")
    assert f"\ndef {name}(" in (TOP / file).read_text(encoding="utf-8")
