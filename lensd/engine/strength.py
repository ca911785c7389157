"""Read the factors by which the header of a peft file multiplies its modules."""

from __future__ import annotations

from collections.abc import Mapping

from lensd.engine.reader import Source
from lensd.errors import UsageError
from lensd.lora import adapter, marks


def strengths(source: Source) -> Mapping[str, float]:
    """Return module name -> scale by the adapter entry; empty if the header has no entry.

    Raises UsageError if the entry cannot be read.
    """
    metadata = source.header.metadata
    text = metadata.get(marks.ADAPTER, metadata.get(adapter.KEY))
    if text is None:
        return {}
    try:
        return adapter.scales(text, [m.name for m in source.layout.modules])
    except ValueError as error:
        raise UsageError(
            f"the strength of the LoRA {source.path} is unknown: {error}; give the file itself "
            "to the program that loads it"
        ) from None
