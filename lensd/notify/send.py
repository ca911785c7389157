"""Deliver a message through apprise and the command of the configuration.

No address is ever printed: it contains passwords. A recipient is named by its key and its service.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lensd.config.check_notify import MISSING, MISSING_REMEDY
from lensd.config.document import Notify
from lensd.errors import ConfigError
from lensd.notify.message import Message

COMMAND_SECONDS = 60.0
REFUSED = (
    "the service did not take the message; look whether it runs and can be reached from here, and "
    "whether the address is complete (https instead of http?); `lensd notify --test` tries again"
)


@dataclass(frozen=True, slots=True)
class Recipient:
    """`deliver` returns why the message was not delivered, None if it was."""

    name: str  # e.g. notify.urls[0] (Discord)
    deliver: Callable[[Message], str | None]


def recipients(notify: Notify) -> list[Recipient]:
    """Return all recipients. Raises ConfigError for an address that apprise does not know."""
    found = list(_addresses(notify)) if notify.urls else []
    if notify.command is not None:
        command = notify.command
        found.append(Recipient("notify.command", lambda message: _run(command, message)))
    return found


def _addresses(notify: Notify) -> Iterator[Recipient]:
    if importlib.util.find_spec("apprise") is None:
        raise ConfigError(f"{MISSING}; {MISSING_REMEDY}")
    import apprise

    # After a redirect a message would be asked for instead of sent, and count as delivered.
    asset = apprise.AppriseAsset()
    asset.http_redirects = False
    logger = logging.getLogger("apprise")  # its lines contain parts of addresses
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    for number, url in enumerate(notify.urls):
        service: Any = apprise.Apprise.instantiate(url.get_secret_value(), asset=asset)
        if service is None:
            raise ConfigError(
                f"notify.urls[{number}] is no address that apprise knows; compare it with the list "
                "of services of apprise's documentation"
            )
        yield Recipient(f"notify.urls[{number}] ({service.service_name})", _sender(service))


def _sender(service: Any) -> Callable[[Message], str | None]:
    def deliver(message: Message) -> str | None:
        try:
            taken = service.notify(title=message.title, body=message.body)
        except Exception as error:  # noqa: BLE001 - of any of a hundred plugins
            return f"apprise ended with {type(error).__name__}"
        return None if taken else REFUSED

    return deliver


def _run(command: tuple[str, ...], message: Message) -> str | None:
    """Give a program the text on stdin, and the title in LENSD_TITLE."""
    environment = {**os.environ, "LENSD_TITLE": message.title}
    try:
        done = subprocess.run(
            command,
            input=message.body.encode(),
            env=environment,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the program did not run: {getattr(error, 'strerror', None) or 'it did not end'}"
    return f"the program ended with {done.returncode}" if done.returncode else None
