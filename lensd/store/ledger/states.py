"""The values of two columns: how far a job is, and how it ended."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """How far a job is; each state is written before the step that it names."""

    QUEUED = "queued"  # nothing has happened yet
    RUNNING = "running"  # the temporary may exist, half-written
    STAGED = "staged"  # the temporary is complete; its sha256 is known
    PUBLISHING = "publishing"  # the original is archived; the names may or may not be exchanged
    PUBLISHED = "published"  # the output is in place; the temporary name may hold the original
    DONE = "done"  # finished; the outcome says how


UNDER_WAY = (JobState.RUNNING, JobState.STAGED, JobState.PUBLISHING, JobState.PUBLISHED)


class Outcome(StrEnum):
    """How the work on one version of a file ended."""

    BASELINE = "baseline"  # it was there before lensd, and is left alone
    COMPRESSED = "compressed"  # the output lies under the path
    REPLACED = "replaced"  # compressed once; a newer file took the name
    RESTORED = "restored"  # the original lies under the path again
    ANALYZED = "analyzed"  # measured; nothing was changed
    KEPT = "kept"  # an output would have been no gain
    SKIPPED = "skipped"  # no file for lensd
    FAILED = "failed"
    QUARANTINED = "quarantined"  # the worker died of it several times
    SUPERSEDED = "superseded"  # another version came first, or the outcome was forgotten
    OUTPUT = "output"  # a copy of lensd's own output
