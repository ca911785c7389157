"""The events that open pages follow."""

from __future__ import annotations

import asyncio

from lensd.errors import StorageError
from lensd.web.hub import Hub, State


def test_a_look_that_fails_ends_no_page() -> None:
    """The disk of the ledger is away for a moment: the page goes on when it is back."""
    looks = iter([State("first", 1), None, State("second", 2)])
    last = State("second", 2)

    def look() -> State:
        state = next(looks, last)
        if state is None:
            raise StorageError("the ledger cannot be read")
        return state

    async def follow() -> list[bytes]:
        events = Hub(look).follow()
        async with asyncio.timeout(10):
            return [await anext(events) for _ in range(4)]

    events = asyncio.run(follow())
    assert events == [
        b'event: now\ndata: "first"\n\n',
        b"event: table\ndata: 1\n\n",
        b'event: now\ndata: "second"\n\n',
        b"event: table\ndata: 2\n\n",
    ]


def test_a_page_that_is_opened_later_gets_no_old_state() -> None:
    """While no page is open, nobody looks: what was true then says nothing."""
    looks = iter([State("old", 1)])
    last = State("new", 2)

    async def follow() -> bytes:
        hub = Hub(lambda: next(looks, last))
        async with asyncio.timeout(10):
            earlier = hub.follow()
            await anext(earlier)
            await earlier.aclose()  # type: ignore[attr-defined]
            assert hub.task is not None
            await hub.task
            return await anext(hub.follow())

    assert asyncio.run(follow()) == b'event: now\ndata: "new"\n\n'
