"""Hostile LoRA files, each compressed by the real worker: cheap, and with a reason or right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fuzz import bombs, limits
from tests.support import suites


@pytest.mark.slow
@pytest.mark.fault("killing file")
def test_hostile_files_cost_little(tell: Callable[[str], None]) -> None:
    """None takes 30 s or 512 MiB more than an ordinary file, and none ends as a bug."""
    tell(f"{bombs.run(1000 if suites.FULL else 60)} (seed {bombs.SEED})")


@pytest.mark.slow
@pytest.mark.fault("killing file")
def test_the_largest_modules_that_are_not_refused(tell: Callable[[str], None]) -> None:
    """They need less than 30 s and 512 MiB in every mode, whatever their factors are."""
    for line in limits.table(limits.RANKS if suites.FULL else limits.RANKS[:1]):
        tell(line)
