"""`lensd status` while files go on: at each moment a file waits, is queued, or is processed."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from queue import SimpleQueue

from lensd.config.load import load
from lensd.report.status import build_status
from lensd.store.archive import Archive
from lensd.store.identity import Identity
from lensd.store.lease import block_lease_signal
from lensd.store.ledger import JobState, Ledger, Outcome
from lensd.watcher.intake import Intake
from lensd.watcher.intake_recorder import IntakeRecorder
from lensd.watcher.move_tracker import MoveTracker
from lensd.watcher.settle import Settler
from tests.faults.one_job import Folder
from tests.support.home_server import HomeServer

LOOKS = 150
NAME = "a.safetensors"


def test_a_file_that_goes_on_is_in_one_list(server: HomeServer) -> None:
    """It becomes a job, the job begins, is put back and begins again, all the time."""
    server.state.mkdir()
    config = load(str(server.config))
    root = config.watch[0].root
    identity = Identity.of(server.make(NAME).path.stat())
    over = threading.Event()

    def go_on() -> None:
        jobs, number = ledger.jobs, 0
        while not over.is_set():
            job_id = f"job-{number}"
            number += 1
            jobs.enqueue(job_id, root, "loras", NAME, identity)
            ledger.state.set_waiting(root, NAME, "loras", None)
            jobs.update(job_id, state=JobState.RUNNING)
            jobs.postpone(job_id, 0.0, "no_space", "the disk is full")
            jobs.update(job_id, state=JobState.RUNNING)
            ledger.state.set_waiting(root, NAME, "loras", "it is still being written")
            jobs.finish(job_id, Outcome.SUPERSEDED)

    with closing(Ledger(str(server.state), "1")) as ledger:
        ledger.state.set_waiting(root, NAME, "loras", "it is still being written")
        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            with Ledger.read_only(str(server.state)) as reader:
                shown = [build_status(config, reader) for _ in range(LOOKS)]
        finally:
            over.set()
            thread.join()
    for status in shown:
        assert len(status.queued) + len(status.running) <= 1
        assert status.queued or status.running or status.waiting


def test_a_file_waits_until_it_is_a_job(server: HomeServer) -> None:
    """The ledger has the job before it forgets that the file waits."""
    block_lease_signal()
    server.state.mkdir()
    folder, jobs = Folder(str(server.loras)), []
    with closing(Ledger(str(server.state), "1")) as ledger:

        def waiting(_: str, reason: str | None) -> None:
            jobs.append((reason is None, ledger.jobs.count_unfinished()))

        archive = Archive(str(server.archive))
        intake = Intake(
            [folder],
            Settler.new(1.0, 1.0),
            ledger,
            archive,
            MoveTracker([folder], ledger, archive, lambda _: None),
            IntakeRecorder([folder], ledger, lambda _: None, SimpleQueue(), waiting),
        )
        path = server.drop(NAME).path
        now = time.monotonic()
        intake.notice(str(path), now)
        intake.step(now)
        os.utime(path)
        intake.step(now + 1.5)
        intake.step(now + 3.0)
    assert jobs == [(False, 0), (True, 1)]
