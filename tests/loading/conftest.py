"""diffusers and its friends: one thread, warnings that are their own, and half a minute."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings of libraries that are not under test are no failures here."""
    for item in items:
        if "tests/loading/" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.slow)
