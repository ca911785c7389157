"""`lensd notify`: send messages about failures, disks and savings."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import click

from lensd.cli import say
from lensd.cli.options import config_option
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, ConfigError, UsageError

if TYPE_CHECKING:
    from lensd.notify.send import Recipient


@click.command()
@config_option
@click.option("--test", is_flag=True, help="Send a test message to all recipients, then exit.")
@click.option("--now", is_flag=True, help="Send what is new since the last message, then exit.")
def notify(config: str | None, *, test: bool, now: bool) -> int:
    """Send messages about failures, disks and savings, as `notify` of the configuration says.

    Runs until SIGTERM or ^C, beside a daemon that may not use the network; elsewhere `lensd run`
    starts it by itself. However much happens within `notify.interval_seconds`, it is one message.

    \b
    lensd notify --test          send a test message now
    lensd notify --now           send what is new, e.g. after `lensd once` in cron
    lensd notify                 go on until ^C
    """
    from lensd.config.load import find_config, load
    from lensd.notify.follow import Follower
    from lensd.notify.send import recipients

    if test and now:
        raise UsageError("--test and --now are two things; choose one")
    found = load(find_config(config))
    people = recipients(found.notify)
    if not people:
        raise ConfigError(
            "the configuration names no recipient; write notify: {urls: [...]} or notify: "
            "{command: [...]}"
        )
    if test:
        return _send_test(people)
    follower = Follower(found, people, say)
    if now:
        return EXIT_OK if follower.send_now() else EXIT_SOME_FAILED
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    follower.follow(ending.wait)
    return EXIT_OK


def _send_test(people: list[Recipient]) -> int:
    from lensd.notify.message import TEST

    failed = False
    for recipient in people:
        fault = recipient.deliver(TEST)
        failed = failed or fault is not None
        click.echo(f"{recipient.name}: {fault or 'sent'}")
    return EXIT_SOME_FAILED if failed else EXIT_OK
