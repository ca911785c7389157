"""Reads the part of JSON that a safetensors header may contain.

The format allows so little of JSON that this scanner needs no recursion, and it builds nothing
that a valid header does not have. A JSON library reads single strings only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

_SPACE = re.compile(r"[ \t\n\r]*")
_TENSOR_MEMBER = re.compile(
    r'[ \t\n\r]*"(dtype|shape|data_offsets)"[ \t\n\r]*:[ \t\n\r]*'
    r'(?:"([A-Z0-9_]{1,32})"|\[([0-9, \t\n\r]{0,2048})\])[ \t\n\r]*([,}])'
)
# An entry as the safetensors library writes it, which most headers have only; without escapes.
_NUMBERS = r"((?:(?:0|[1-9][0-9]{0,18})(?:,(?:0|[1-9][0-9]{0,18})){0,15})?)"
_PLAIN_ENTRY = re.compile(
    r'"([^"\\\x00-\x1f]+)":\{"dtype":"([A-Z0-9_]{1,32})",'
    rf'"shape":\[{_NUMBERS}\],"data_offsets":\[{_NUMBERS}\]\}}(?:(,)(?=")|(?=\}}))'
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_DECODER = json.JSONDecoder()


# Receives name, dtype, and the numbers of shape and data_offsets as text.
TakeTensor = Callable[[str, str, str, str], None]


class BadError(Exception):
    """A violation of the format; its text is part of a sentence."""


class Scanner:
    """Reads a header from left to right; at most `max_entries` keys in an object."""

    __slots__ = ("_at", "_max_entries", "_text")

    def __init__(self, text: str, max_entries: int) -> None:
        self._text = text
        self._max_entries = max_entries
        self._at = 0

    def members(self, take: TakeTensor | None = None) -> Iterator[str]:
        """Each key of an object; the caller must read the value before it takes the next key.

        Tensors that are written as the safetensors library does go to `take` instead, which is
        faster.
        """
        self._expect("{")
        if self._accept("}"):
            return
        seen: set[str] = set()
        while True:
            plain = take and self._match_plain_tensor()
            key = plain[1] if plain else self.string()
            if key in seen:
                raise BadError(f"the key {key[:200]!r} comes twice")
            if len(seen) == self._max_entries:
                raise BadError(f"the header has more than {self._max_entries} entries")
            seen.add(key)
            if plain and take:
                self._at = plain.end()
                take(*plain.groups()[:4])
                if plain[5]:
                    continue
            else:
                self._expect(":")
                yield key
            if self._accept("}"):
                return
            self._expect(",")

    def _match_plain_tensor(self) -> re.Match[str] | None:
        found = _PLAIN_ENTRY.match(self._text, self._at)
        return found if found and found[1] != "__metadata__" else None

    def string(self) -> str:
        self._skip_space()
        if not self._text.startswith('"', self._at):
            raise self._unexpected("a string")
        try:
            value, end = _DECODER.raw_decode(self._text, self._at)
        except ValueError:
            raise self._unexpected("a valid string") from None
        if _SURROGATE.search(value):
            raise self._unexpected("a string of whole characters")
        self._at = end
        return str(value)

    def tensor_members(self) -> dict[str, str]:
        """The texts of those of dtype, shape and data_offsets that a tensor has."""
        self._expect("{")
        members: dict[str, str] = {}
        closing = ","
        while closing == ",":
            match = _TENSOR_MEMBER.match(self._text, self._at)
            if match is None:
                raise self._unexpected("dtype, shape or data_offsets")
            key, word, numbers, closing = match.groups()
            if key in members or (key == "dtype") != (word is not None):
                raise self._unexpected(f"single, valid {key}")
            members[key] = numbers if word is None else word
            self._at = match.end()
        return members

    def end(self) -> None:
        self._skip_space()
        if self._at != len(self._text):
            raise self._unexpected("the end of the header")

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _accept(self, token: str) -> bool:
        self._skip_space()
        found = self._text.startswith(token, self._at)
        self._at += found
        return found

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise self._unexpected(repr(token))

    def _unexpected(self, wanted: str) -> BadError:
        return BadError(f"the header has no {wanted} at character {self._at}")
