"""Typed messages as JSON lines: the worker's pipes and the control socket both use them.

A message is a msgspec Struct (or a tagged union of them). A line is ASCII: a file name that is not
UTF-8, which Python holds as lone surrogates, travels as JSON escapes. msgspec's own JSON encoder
refuses lone surrogates, so that the text is json's and only the types are msgspec's.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar, overload

import msgspec

Message = TypeVar("Message")


def encode(message: object) -> bytes:
    """One line, with its end."""
    return json.dumps(msgspec.to_builtins(message), ensure_ascii=True).encode("ascii") + b"\n"


@overload
def decode(line: bytes, kind: type[Message]) -> Message: ...
@overload
def decode(line: bytes, kind: Any) -> Any: ...


def decode(line: bytes, kind: Any) -> Any:
    """The message in a line. `kind` is its type, or a union of tagged types.

    Raises ValueError if the line is no such message.
    """
    try:
        return msgspec.convert(json.loads(line), kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(str(error)) from error
