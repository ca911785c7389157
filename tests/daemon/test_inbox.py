"""The inbox of the main loop."""

from __future__ import annotations

from lensd.daemon.inbox import Inbox, Look, Stop, Wake


def test_many_events_of_a_path_are_one_look() -> None:
    """A download writes thousands of times. What comes after the look was taken counts anew."""
    inbox = Inbox()
    for _ in range(1000):
        inbox.look("/srv/loras/a")
        inbox.look("/srv/loras/b")
    assert inbox.get(0) == Look("/srv/loras/a")
    inbox.look("/srv/loras/a")
    assert [inbox.get(0) for _ in range(3)] == [Look("/srv/loras/b"), Look("/srv/loras/a"), None]
    assert inbox.empty()


def test_other_messages_come_as_often_as_they_were_sent() -> None:
    """In their order."""
    inbox = Inbox()
    for message in (Wake(), Wake(), Stop(15)):
        inbox.put(message)
    assert [inbox.get(0) for _ in range(3)] == [Wake(), Wake(), Stop(15)]
