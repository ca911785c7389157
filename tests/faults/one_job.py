"""lensd's start, and its jobs until none is left, in the main thread of a small process.

`python -S -m tests.faults.one_job` imports once and then forks a process per line of its input. A
line is a plan in JSON: `top` (with `loras` and `state`), `archive`, `log`, `answers` (for
worker.py), `kill` (what worker.py is to do), `refuse` (calls that the kernel is to refuse), `quiet`
seconds, `redo` (compress again what is compressed), `retry` (try again what failed), `asks` (a
request, which is all that it does then), `keep` (which originals `prune` keeps) and `verify` (say
what is wrong at the end). It answers with the process's number, which waits for one byte more (so
that strace can come), and when it has ended with its exit status.

What is missing against `lensd once` is the configuration and torch; recovery, intake, job, commit,
ledger, archive and the worker's protocol are the real ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import struct
import sys
import time
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, Literal

from lensd.config.document import Archive as ArchiveConfig
from lensd.daemon.control_messages import decode_request
from lensd.daemon.inbox import Inbox, Look
from lensd.daemon.requests import RequestHandler
from lensd.errors import StorageError
from lensd.jobs import compress, rebuild, recover
from lensd.jobs.context import JobContext
from lensd.jobs.filesystems import Filesystems
from lensd.jobs.gone_files import GoneFiles
from lensd.jobs.verify import Verifier
from lensd.logs.events import Event
from lensd.lora.parameters import Parameters
from lensd.store.archive import Archive
from lensd.store.json_lines import encode
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import Ledger, Outcome
from lensd.watcher import root_identity
from lensd.watcher.baseline import record_baseline
from lensd.watcher.intake import Intake
from lensd.watcher.intake_recorder import IntakeRecorder
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.root_states import RootStates
from lensd.watcher.settle import Settler
from lensd.worker import isolated
from lensd.worker.supervisor import Worker
from tests.faults import worker
from tests.support.jobs import finish

# Moments: the opening of these fails, and shows in a trace.
OPENED = "/lensd-test-ledger-is-open"
RECOVERED = "/lensd-test-recovery-is-done"
STORAGE = 5
BUG = 3

# (number of the call, argument to look at, its bits, what they must be, the error)
REFUSALS = {
    "x86_64": {"lease": (72, 1, 0xFFFFFFFF, 1024, 22), "exchange": (316, 4, 2, 2, 22)},
    "aarch64": {"lease": (25, 1, 0xFFFFFFFF, 1024, 22), "exchange": (276, 4, 2, 2, 22)},
}


class Folder:
    """The watched folder, as lensd.config would give it."""

    name, existing, recursive = "loras", "leave", True

    def __init__(self, root: str) -> None:
        self.root = root

    def selects(self, relative: str) -> bool:
        return relative.endswith(".safetensors")


class Settings:
    """Those of the prepared answers."""

    mode: Literal["ultra"] = "ultra"
    max_error, min_saving, preserve_mtime = None, 0.05, True

    def parameters(self) -> Parameters:
        return Parameters()


def serve(act: Callable[[dict[str, Any]], int]) -> None:
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            os._exit(child(act, json.loads(line)))
        tell(pid)
        tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def tell(number: int) -> None:
    os.write(1, f"{number}\n".encode())


def child(act: Callable[[dict[str, Any]], int], plan: dict[str, Any]) -> int:
    os.read(0, 1)
    try:
        return act(plan)
    except BaseException:  # noqa: BLE001  nothing may go on in this copy of the server
        traceback.print_exc()
        return BUG


def main(plan: dict[str, Any]) -> int:
    refuse(plan["refuse"])
    block_lease_signal()
    log_fd = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def log(event: Event) -> None:
        os.write(log_fd, encode(event))

    try:
        work(plan, log)
    except StorageError as error:
        os.write(log_fd, encode({"event": "error", "message": str(error)}))
        return STORAGE
    return 0


def work(plan: dict[str, Any], log: Callable[[Event], None]) -> None:
    ledger = Ledger(f"{plan['top']}/state", "1")
    mark(OPENED)
    folder = Folder(f"{plan['top']}/loras")
    inbox = Inbox()
    archive = Archive(plan["archive"], {folder.name: folder.root})
    move_tracker = MoveTracker([folder], ledger, archive, log)
    command = (*isolated.command(worker.__name__), plan["answers"], plan["kill"])
    process = Worker(command, log, 20, 20, nice=0)
    context = JobContext(
        ledger=ledger,
        archive=archive,
        log=log,
        device="cpu",
        quiet_seconds=plan["quiet"],
        hints=inbox,
        root_states=RootStates([], inbox),
        move_tracker=move_tracker,
        filesystems=Filesystems(ledger),
    )
    try:
        if plan["asks"]:
            ask(plan, folder, context)
            return
        move_tracker.finish_interrupted_move()
        recover.recover(context)
        rebuild.rebuild(folder, ledger, archive, log)
        recover.rescue_strays(folder.root, folder.name, recursive=True, context=context)
        mark(RECOVERED)
        recorder = IntakeRecorder([folder], ledger, log, SimpleQueue())
        intake = Intake([folder], Settler.new(0, 0), ledger, archive, move_tracker, recorder)
        record_baseline(folder, ledger, move_tracker)
        if ledger.roots.get_identity(folder.root) is None:
            ledger.roots.set_identity(folder.root, *root_identity.probe(folder.root).identity)
        if plan["redo"]:
            do_again(ledger)
        if plan["retry"]:
            ledger.jobs.release(ledger.files.with_outcome(Outcome.FAILED, Outcome.QUARANTINED))
        intake.scan(folder, time.monotonic())
        patience = 3  # a file that has to wait is left to the next start
        while (intake.pending or not inbox.empty() or ledger.jobs.next_queued()) and patience:
            message = inbox.get(0)
            if isinstance(message, Look):
                intake.notice(message.path, time.monotonic())
            intake.step(time.monotonic())
            entry = ledger.jobs.next_queued()
            if entry is not None:
                finish(compress.process(entry, Settings(), context, 0.0), process)
            else:
                patience -= 1
        if plan["verify"]:
            verify(ledger, archive, log)
    finally:
        process.stop("idle")
        ledger.close()


def ask(plan: dict[str, Any], folder: Folder, context: JobContext) -> None:
    """As a command that finds no daemon. Raises StorageError if it says that something failed."""
    if plan["asks"] == {"verb": "verify"}:
        verify(context.ledger, context.archive, context.log)
        return
    if plan["asks"] == {"verb": "look"}:
        GoneFiles(context.ledger, context.archive, context.log).look()
        return
    config: Any = SimpleNamespace(
        watch=[folder],
        archive=ArchiveConfig(path=context.archive.root, **plan["keep"]),
        settle=SimpleNamespace(quiet_seconds=plan["quiet"]),
    )
    handler = RequestHandler(
        config, context.ledger, context.archive, context.log, context.move_tracker
    )
    said: list[str] = []
    code = handler.handle(
        decode_request(json.dumps(plan["asks"]).encode()), lambda m: said.append(m.say)
    )
    if code:
        raise StorageError("; ".join(said))


def verify(ledger: Ledger, archive: Archive, log: Callable[[Any], None]) -> None:
    """As `lensd verify`: a line for each fault."""
    verifier = Verifier(ledger, archive)
    for key in verifier.files():
        for finding in verifier.check(key):
            if finding.is_fault:
                log({"event": "fault", "kind": finding.kind, "state": finding.state})


def mark(moment: str) -> None:
    with contextlib.suppress(OSError):
        os.open(moment, os.O_RDONLY)


def do_again(ledger: Ledger) -> None:
    """As `lensd once --redo`."""
    for entry in ledger.files.with_outcome(Outcome.COMPRESSED):
        ledger.jobs.redo(f"{entry.job_id}-again", entry)


def refuse(names: list[str]) -> None:
    """Let the kernel answer these calls with an error, by a seccomp filter."""
    if not names:
        return
    steps = []
    for name in names:
        number, argument, bits, wanted, code = REFUSALS[os.uname().machine][name]
        steps += [
            (0x20, 0, 0, 0),  # the call's number
            (0x15, 0, 4, number),
            (0x20, 0, 0, 16 + 8 * argument),
            (0x54, 0, 0, bits),
            (0x15, 0, 1, wanted),
            (0x06, 0, 0, 0x00050000 | code),
        ]
    steps.append((0x06, 0, 0, 0x7FFF0000))
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


if __name__ == "__main__":
    serve(main)
