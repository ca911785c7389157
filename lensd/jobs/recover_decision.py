"""What recovery does with a job that a crash interrupted: a pure function from facts to a verdict.

A temporary is unlinked only if it is provably lensd's output or an original that the archive has.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lensd.store.ledger import JobState


class Content(Enum):
    """What lies under a name."""

    NOTHING = "nothing"
    OUTPUT = "output"  # the file that the ledger calls `staged`
    ORIGINAL = "original"  # the file that the job is about
    OTHER = "other"  # bytes that another program wrote


@dataclass(frozen=True, slots=True)
class Facts:
    """A job that was under way, and what lies in its folder.

    `state` is one of UNDER_WAY. `has_writer` is about an original under the temporary: a program
    has it open for writing.
    """

    state: JobState
    named: Content = Content.NOTHING
    temporary: Content = Content.NOTHING
    is_archived: bool = False
    has_writer: bool = False
    is_folder_missing: bool = False


class Verdict(Enum):
    """COMPLETE finishes the job as compressed, REQUEUE begins it again."""

    COMPLETE = "complete"
    UNLINK_ORIGINAL_AND_COMPLETE = "unlink the original, complete"
    RESCUE_AND_COMPLETE = "rescue the temporary, complete"
    REQUEUE = "requeue"
    UNLINK_OUTPUT_AND_REQUEUE = "unlink the output, requeue"
    UNLINK_ORIGINAL_AND_REQUEUE = "unlink the original, requeue"
    RESCUE_AND_REQUEUE = "rescue the temporary, requeue"
    SWAP_BACK = "exchange the names, and decide again"

    @property
    def completes(self) -> bool:
        """Whether the job is finished as compressed."""
        return self in _COMPLETING


_COMPLETING = (
    Verdict.COMPLETE,
    Verdict.UNLINK_ORIGINAL_AND_COMPLETE,
    Verdict.RESCUE_AND_COMPLETE,
)


def decide(facts: Facts) -> Verdict:
    """The rules of each state, in the order of the states."""
    is_published = facts.state == JobState.PUBLISHED
    if facts.is_folder_missing:  # a job that begins again finds that its file is gone
        return Verdict.COMPLETE if is_published else Verdict.REQUEUE
    if is_published:
        return _clear(facts, completes=True)
    if facts.state == JobState.RUNNING or facts.temporary is Content.OUTPUT:
        # the names were not exchanged, so the temporary is lensd's own
        nothing = facts.temporary is Content.NOTHING
        return Verdict.REQUEUE if nothing else Verdict.UNLINK_OUTPUT_AND_REQUEUE
    if facts.state == JobState.PUBLISHING:
        return _decide_publishing(facts)
    return _clear(facts, completes=False)


def _decide_publishing(facts: Facts) -> Verdict:
    """The names were exchanged if the output has the one, or the original the other."""
    is_output_in_place = facts.named is Content.OUTPUT
    if facts.temporary is Content.NOTHING and is_output_in_place:
        return Verdict.COMPLETE
    if _may_unlink_original(facts):
        return Verdict.UNLINK_ORIGINAL_AND_COMPLETE
    if is_output_in_place:  # another program writes, or wrote, to the file that came out
        return Verdict.SWAP_BACK
    return _clear(facts, completes=False)


def _clear(facts: Facts, *, completes: bool) -> Verdict:
    """Remove the temporary: unlink an archived original, rescue anything else."""
    if facts.temporary is Content.NOTHING:
        return Verdict.COMPLETE if completes else Verdict.REQUEUE
    if _may_unlink_original(facts):
        return (
            Verdict.UNLINK_ORIGINAL_AND_COMPLETE
            if completes
            else Verdict.UNLINK_ORIGINAL_AND_REQUEUE
        )
    return Verdict.RESCUE_AND_COMPLETE if completes else Verdict.RESCUE_AND_REQUEUE


def _may_unlink_original(facts: Facts) -> bool:
    return facts.temporary is Content.ORIGINAL and facts.is_archived and not facts.has_writer
