"""What the log says of a disk that new files wait for."""

from __future__ import annotations

from lensd.daemon.intake_faults import IntakeFaults
from lensd.errors import DiskUnavailable, StorageError
from lensd.logs.events import DaemonDegraded, DaemonRecovered, Event


def test_the_disk_with_the_fault_is_named() -> None:
    """Once at its begin and once at its end, however many folders wait for it."""
    events: list[Event] = []
    faults = IntakeFaults("/state", events.append)
    away = DiskUnavailable("io_error", "/archive", "the archive /archive does not exist")
    for root in ("/a", "/b"):
        faults.report(root, away)
    for root in ("/a", "/b"):
        faults.report(root, None)
    faults.report("/a", StorageError("the ledger cannot be written"))
    found = [(type(e), e.path) for e in events if isinstance(e, DaemonDegraded | DaemonRecovered)]
    assert found == [
        (DaemonDegraded, "/archive"),
        (DaemonRecovered, "/archive"),
        (DaemonDegraded, "/state"),
    ]
