"""A slow program that writes a file: `python writer.py KIND SOURCE TARGET PAUSE PIECES`.

It stops after PIECES of 4, as one that was killed.
"""

from __future__ import annotations

import mmap
import os
import sys
import time

QUARTERS = 4


def append(data: bytes, target: str, pause: float, pieces: int) -> None:
    """Opens and closes the file for every piece, as a script with `>>`."""
    for start, piece in _pieces(data, pieces):
        with open(target, "r+b" if start else "wb") as file:
            file.seek(start)
            file.write(piece)
        time.sleep(pause)


def hold(data: bytes, target: str, pause: float, pieces: int) -> None:
    """Has it open all the time, and longer than it writes."""
    with open(target, "wb", buffering=0) as file:
        for _, piece in _pieces(data, pieces):
            file.write(piece)
            time.sleep(pause)


def allocate(data: bytes, target: str, pause: float, pieces: int) -> None:
    """Takes all its space first."""
    with open(target, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, len(data))
    for start, piece in _pieces(data, pieces):
        with open(target, "r+b") as file:
            file.seek(start)
            file.write(piece)
        time.sleep(pause)


def zeros(data: bytes, target: str, pause: float, pieces: int) -> None:
    """As `allocate`, where the filesystem cannot: zeros are written."""
    with open(target, "wb") as file:
        file.write(bytes(len(data)))
    for start, piece in _pieces(data, pieces):
        with open(target, "r+b") as file:
            file.seek(start)
            file.write(piece)
        time.sleep(pause)


def mapped(data: bytes, target: str, pause: float, pieces: int) -> None:
    """Through a mapping, with no descriptor open."""
    with open(target, "w+b") as file:
        file.truncate(len(data))
        view = mmap.mmap(file.fileno(), len(data))
    for start, piece in _pieces(data, pieces):
        view[start : start + len(piece)] = piece
        time.sleep(pause)
    view.close()


def _pieces(data: bytes, count: int) -> list[tuple[int, bytes]]:
    size = -(-len(data) // QUARTERS)
    return [(n * size, data[n * size : (n + 1) * size]) for n in range(count)]


KINDS = {f.__name__: f for f in (append, hold, allocate, zeros, mapped)}

if __name__ == "__main__":
    kind, source, target, pause, pieces = sys.argv[1:]
    with open(source, "rb") as whole:
        KINDS[kind](whole.read(), target, float(pause), int(pieces))
