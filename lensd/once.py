"""`once`: what is there now is settled together and worked off; then it ends."""

from __future__ import annotations

import math
import os
import secrets
import signal
import time

from lensd import batch
from lensd.config.models import Config
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED
from lensd.house import House, Look, Onlooker, Stop, listen, locked_ledger, say


def once(config: Config, *, paths: list[str], redo: bool, onlooker: Onlooker | None = None) -> int:
    """Process what is there now, then end. Returns the exit code."""
    inbox = listen()
    onlooker = onlooker or Onlooker()
    with locked_ledger(config, onlooker.stdout) as ledger:
        house = House(config, ledger, inbox, patient=False, onlooker=onlooker)
        house.guard.open()
        house.has_failed = bool(house.guard.held)
        house.prepare()
        house.intake.tells_unfinished = False
        onlooker.begin(_invite(house, paths, redo=redo))
        house.runner.start()
        try:
            stopped = _settle_and_work(house)
        finally:
            house.close()
    if stopped is not None:
        return 128 + stopped
    return EXIT_SOME_FAILED if house.has_failed else EXIT_OK


def _invite(house: House, paths: list[str], *, redo: bool) -> dict[str, int]:
    """What was asked to be treated, whatever became of it before: bytes by path."""
    house.intake.follow()
    there = house.config.model_copy(update={"watch": house.healthy()})
    chosen = batch.choose(there, house.ledger, paths, redo=redo)
    house.ledger.release(chosen.released)
    for entry in chosen.again:
        house.ledger.redo(secrets.token_hex(8), entry)
    now = time.monotonic()
    sizes = {entry.full_path: entry.bytes_in or 0 for entry in chosen.again}
    for file in chosen.files:
        path = os.path.join(file.watch.root, file.path)
        house.intake.hint(path, now)
        sizes[path] = file.identity.size
    return sizes


def _settle_and_work(house: House) -> int | None:
    """Returns the number of the signal that ended it early, if one did."""
    intake, deadline = house.intake, _deadline(house)
    while house.runner.error is None:
        now = time.monotonic()
        if intake.step(now):
            house.runner.wake()
        if intake.pending and now > deadline and not intake.hopeful:
            intake.reject_rest()
        if not intake.pending and house.is_worked_off():
            return None
        message = house.next(intake.next_due() or math.inf)
        if isinstance(message, Stop):
            say("daemon.stopping", signal=signal.Signals(message.number).name)
            return message.number
        if isinstance(message, Look):  # somebody wrote to a file while it was its turn
            intake.hint(message.path, time.monotonic())
            deadline = _deadline(house)
    raise house.runner.error


def _deadline(house: House) -> float:
    """When a file that is not whole, and does not become so by waiting, is given up."""
    return time.monotonic() + house.config.settle.quiet_seconds + 1
