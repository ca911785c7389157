"""The values of two columns: how far a job is, and how it ended."""

from __future__ import annotations

from enum import StrEnum

from lensd.errors import Outcome

__all__ = ["UNDER_WAY", "JobState", "Outcome"]


class JobState(StrEnum):
    """How far a job is; each state is written before the step that it names."""

    QUEUED = "queued"  # nothing has happened yet
    RUNNING = "running"  # the temporary may exist, half-written
    STAGED = "staged"  # the temporary is complete; its sha256 is known
    PUBLISHING = "publishing"  # the original is archived; the names may or may not be exchanged
    PUBLISHED = "published"  # the output is in place; the temporary name may hold the original
    DONE = "done"  # finished; the outcome says how


UNDER_WAY = (JobState.RUNNING, JobState.STAGED, JobState.PUBLISHING, JobState.PUBLISHED)
