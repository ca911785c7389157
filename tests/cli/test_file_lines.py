"""Lines about files, at narrow and wide terminals."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from lensd.cli.views.file_lines import ShortPaths, describe, shorten, wrap

PATHS = ShortPaths({"/srv/loras": "loras"})
MESSAGE = "1 of 6 modules have NaN: download /srv/loras/sub/style.safetensors again, then retry"


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_no_line_is_too_long_and_no_word_is_broken(width: int) -> None:
    """The words are those of the message; the path is shortened in its middle."""
    path = "loras/a folder with a long name/" + "long-" * 20 + "name.safetensors"
    lines = describe("failed", path, PATHS.text(MESSAGE), width)
    assert all(cell_len(line) <= width for line in lines)
    words = {word for line in lines[1:] for word in line.split()}
    assert {"download", "again,", "then", "retry"} <= words
    assert "…" in lines[0]


@pytest.mark.parametrize("width", range(30, 90))
def test_each_word_of_a_message_appears_once(width: int) -> None:
    """Also a word that does not fit behind the path."""
    message = "lora_unet_down_blocks_0_resnets_0 has NaN or infinite weights"
    lines = describe("left alone", "loras/bad.safetensors", message, width)
    shown = " ".join(" ".join(lines).split()).partition(": ")[2]
    assert shown.split()[1:] == message.split()[1:]
    assert all(cell_len(line) <= width for line in lines)


def test_a_path_is_written_by_its_watched_folder() -> None:
    """A path elsewhere stays whole, and control characters are escaped."""
    assert PATHS.path("/srv/loras/sub/style.safetensors") == "loras/sub/style.safetensors"
    assert PATHS.path("/srv/other/style.safetensors") == "/srv/other/style.safetensors"
    assert PATHS.path("/srv/loras/a\nb") == r"loras/a\nb"


def test_a_shortened_text_keeps_its_ends() -> None:
    """The end, with the version and the suffix, keeps more than the begin."""
    assert shorten("style-of-a-painter-v2.safetensors", 20) == "style-…2.safetensors"
    assert cell_len(shorten("画風" * 20 + "v2.safetensors", 21)) <= 21
    assert shorten("short", 20) == "short"


def test_a_word_that_is_longer_than_a_line_is_shortened() -> None:
    """So that the terminal does not break it."""
    assert wrap("see " + "x" * 50 + " then go on", 30, "  ") == [
        "see",
        f"  {'x' * 9}…{'x' * 18}",
        "  then go on",
    ]
