"""Recognises other kinds of files, for the message about a file that is not safetensors."""

from __future__ import annotations

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive or a PyTorch checkpoint"),
    (b"GGUF", "a GGUF model"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF"),
    *((bytes([0x80, version]), "a Python pickle (.pt, .ckpt)") for version in range(2, 6)),
)
_TEXT_BYTES = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100))


def kind_of(beginning: bytes | bytearray) -> str | None:
    """The kind of file that begins with these bytes, None if unknown."""
    for magic, kind in _MAGIC:
        if beginning.startswith(magic):
            return kind
    if beginning.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page (often an error or a login page of the download site)"
    if len(beginning) >= 8 and _TEXT_BYTES.issuperset(beginning):
        return "JSON" if beginning.lstrip()[:1] in b"{[" else "text"
    return None
