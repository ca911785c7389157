"""The child of `lensd run` that sends messages: it ends when its stdin is closed."""

from __future__ import annotations

import select
import socket
import sys

from lensd.config.load import load
from lensd.errors import LensdError
from lensd.notify.follow import Follower
from lensd.notify.send import recipients

NO_NETWORK = (
    "this service may not use the network; install systemd/lensd-notify.service, which sends the "
    "messages (docs/operations.md, Notifications)"
)


def main() -> int:
    """Follow the ledger of a configuration. Arguments: its path, when the daemon started."""
    if not _may_use_network():
        _say(NO_NETWORK)
        return 0
    try:
        config = load(sys.argv[1])
        follower = Follower(config, recipients(config.notify), _say, float(sys.argv[2]))
        follower.follow(_wait)
    except LensdError as error:
        _say(str(error))
    return 0


def _may_use_network() -> bool:
    """Whether the unit of the daemon permits a socket (RestrictAddressFamilies)."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _wait(seconds: float) -> bool:
    """Whether the daemon has closed stdin, or was killed."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable)


def _say(text: str) -> None:
    sys.stderr.write(f"lensd notify: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
