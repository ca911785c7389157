"""lensd.config.sizes: sizes as people write them."""

from __future__ import annotations

import pytest

from lensd.config.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32MB", 32_000_000),
        ("32 MB", 32_000_000),
        ("32mb", 32_000_000),
        ("32M", 32_000_000),
        ("32MiB", 32 * 1024**2),
        ("1.5GiB", 3 * 2**29),
        ("1.1 kB", 1100),
        ("512", 512),
        ("512B", 512),
    ],
)
def test_decimal_and_binary_units(text: str, expected: int) -> None:
    """MB is in powers of 1000, MiB in powers of 1024; fractions are exact; no unit means bytes."""
    assert expected == parse_size(text)


@pytest.mark.parametrize(
    "text", ["", "MB", "-3MB", "3XB", "0", "0.1", "3iB", "1e3MB", "99999999TB"]
)
def test_other_text_is_no_size(text: str) -> None:
    """Zero is no size either; the message names the text."""
    with pytest.raises(ValueError, match="size"):
        parse_size(text)
