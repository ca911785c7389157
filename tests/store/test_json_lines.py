"""Messages arrive as they were sent, and other lines are refused."""

import os

import msgspec
import pytest

from lensd.store.json_lines import decode, encode


class Move(msgspec.Struct, frozen=True, kw_only=True, tag="move", tag_field="type"):
    path: str
    inode: tuple[int, int] | None = None


class Stop(msgspec.Struct, frozen=True, tag="stop", tag_field="type"):
    seconds: float | msgspec.UnsetType = msgspec.UNSET


def test_a_message_arrives_as_it_was_sent() -> None:
    """The tag of a line selects the type, and a fixed-length list becomes a tuple again."""
    message = Move(path="/srv/loras/größe.safetensors", inode=(1, 2))
    assert message == decode(encode(message), Move | Stop)
    assert Stop() == decode(encode(Stop()), Move | Stop)


def test_a_name_that_is_not_utf_8_travels_as_ascii() -> None:
    """A line is ASCII and has one end; the name keeps its bytes."""
    message = Move(path=os.fsdecode(b"/srv/\xff\n\xe2\x80\xa8.safetensors"))
    line = encode(message)
    assert line.isascii()
    assert [b""] == line.split(b"\n")[1:]
    assert os.fsencode(message.path) == os.fsencode(decode(line, Move).path)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b"{}",
        b'{"type": "other"}',
        b'{"type": "\\udcff"}',
        b'{"type": "move"}',
        b'{"type": "move", "path": 1}',
        b'{"type": "move", "path": "/", "inode": [1]}',
    ],
)
def test_a_line_that_is_no_such_message_is_a_value_error(line: bytes) -> None:
    """Not JSON, of no known type, or with fields of another type."""
    with pytest.raises(ValueError, match=r"."):
        decode(line, Move | Stop)
