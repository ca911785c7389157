"""The `--json` output of commands, checked with the schemas of the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from lensd.report import schema

A_LINE_A_FILE = ("analyze", "compress")


def documents(verb: str, stdout: str) -> list[Any]:
    """The documents in a command's output. Raises jsonschema.ValidationError."""
    texts = stdout.splitlines() if verb in A_LINE_A_FILE else [stdout]
    found = [json.loads(text) for text in texts]
    for document in found:
        validator(verb).validate(document)
    return found


def check(arguments: Sequence[object], stdout: str) -> None:
    """Check the output if these arguments of `lensd` ask for JSON and it printed some."""
    if "--json" in arguments and stdout and arguments[0] in schema.OUTPUTS:
        documents(str(arguments[0]), stdout)


@cache
def validator(verb: str) -> Draft202012Validator:
    return Draft202012Validator(schema.of_output(verb))
