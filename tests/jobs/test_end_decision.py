"""How a job ends that meets an error: a table of facts and verdicts."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from lensd.errors import Reason
from lensd.jobs import job_end
from lensd.jobs.end_decision import BACK_OFF, Facts, Verdict, attempts_allowed, decide


def moved() -> bool:
    return True


def not_asked() -> bool:
    pytest.fail("a search through all folders that decides nothing")


@pytest.mark.parametrize(
    ("reason", "facts", "verdict"),
    [
        # Not the file's fault, or too late: whatever the reason is.
        (Reason.VANISHED, {"is_folder_away": True, "has_moved": not_asked}, Verdict.LEAVE),
        (Reason.IO_ERROR, {"is_folder_away": True, "is_published": True}, Verdict.LEAVE),
        (Reason.CHANGED, {"has_ended": True, "has_moved": not_asked}, Verdict.LEAVE),
        (Reason.CHANGED, {"is_published": True, "has_moved": not_asked}, Verdict.COMPLETE_LATER),
        # The path does not have the job's file any more.
        (Reason.VANISHED, {"has_moved": moved}, Verdict.FOLLOW),
        (Reason.CHANGED, {"has_moved": moved}, Verdict.FOLLOW),
        (Reason.VANISHED, {}, Verdict.FORGET),
        (Reason.CHANGED, {}, Verdict.SUPERSEDE),
        (Reason.CHANGED, {"is_redo": True}, Verdict.RECORD),
        # Disks: the daemon waits, `lensd once` does not.
        (Reason.NO_SPACE, {"waits_for_disks": True}, Verdict.WAIT_FOR_DISK),
        (Reason.READ_ONLY, {"waits_for_disks": True}, Verdict.WAIT_FOR_DISK),
        (Reason.NO_SPACE, {}, Verdict.RECORD),
        (Reason.IO_ERROR, {"waits_for_disks": True, "is_disk_error": True}, Verdict.POSTPONE),
        (Reason.IO_ERROR, {"is_disk_error": True}, Verdict.RECORD),
        (Reason.IO_ERROR, {"waits_for_disks": True}, Verdict.RECORD),
        # The file's own fault.
        (Reason.NO_GAIN, {"waits_for_disks": True, "has_moved": not_asked}, Verdict.RECORD),
        (Reason.NOT_FINITE, {"has_moved": not_asked}, Verdict.RECORD),
    ],
)
def test_verdicts(reason: Reason, facts: dict[str, Any], verdict: Verdict) -> None:
    """The first rule that fits decides."""
    assert verdict == decide(Facts(reason, **facts))


@pytest.mark.parametrize("retries", range(len(BACK_OFF) + 2))
def test_a_disk_error_is_tried_again_so_often(retries: int) -> None:
    """After the last back-off the job has failed."""
    facts = Facts(Reason.IO_ERROR, is_disk_error=True, retries=retries, waits_for_disks=True)
    expected = Verdict.POSTPONE if retries < len(BACK_OFF) else Verdict.RECORD
    assert expected == decide(facts)


def test_a_file_that_takes_too_long_has_fewer_attempts() -> None:
    """All others wait for it each time, and mostly it takes too long again."""
    assert attempts_allowed(Reason.WORKER_TIMEOUT) == 2
    assert attempts_allowed(Reason.WORKER_CRASHED) == attempts_allowed(Reason.WORKER_MEMORY) == 3


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_a_verdict(reason: Reason) -> None:
    """With an unmoved file in a folder that is there."""
    assert decide(Facts(reason)) in (Verdict.RECORD, Verdict.FORGET, Verdict.SUPERSEDE)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EIO, Reason.IO_ERROR),
        (errno.ENOSPC, Reason.NO_SPACE),
        (errno.EROFS, Reason.READ_ONLY),
        (errno.ESTALE, Reason.IO_ERROR),
        (errno.EMFILE, Reason.IO_ERROR),
    ],
)
def test_an_error_that_passes_fails_no_file_at_once(code: int, reason: Reason) -> None:
    """Whichever call of a job meets it: the daemon waits, or tries again."""
    end = job_end.io_error(OSError(code, os.strerror(code)), "/srv/loras/a.safetensors")
    facts = Facts(end.reason, is_disk_error=end.disk is not None, waits_for_disks=True)
    assert end.reason is reason
    assert decide(facts) in (Verdict.WAIT_FOR_DISK, Verdict.POSTPONE)


def test_a_missing_right_fails_a_file_at_once() -> None:
    """A person has to give it."""
    end = job_end.io_error(PermissionError(errno.EACCES, "Permission denied"), "/srv/loras/a")
    facts = Facts(end.reason, is_disk_error=end.disk is not None, waits_for_disks=True)
    assert decide(facts) is Verdict.RECORD
