"""What a peft file's header multiplies its modules with."""

from __future__ import annotations

from collections.abc import Mapping

from lensd.engine.reader import Source
from lensd.errors import UsageError
from lensd.lora import adapter, marks


def strengths(source: Source) -> Mapping[str, float]:
    """Module name -> scale, from the adapter entry; empty where the header has none.

    Raises UsageError where the entry cannot be understood.
    """
    metadata = source.header.metadata
    text = metadata.get(marks.ADAPTER, metadata.get(adapter.KEY))
    if text is None:
        return {}
    try:
        return adapter.scales(text, [m.name for m in source.layout.modules])
    except ValueError as error:
        raise UsageError(
            f"the strength of {source.path} is not known: {error}; load the file itself instead"
        ) from None
