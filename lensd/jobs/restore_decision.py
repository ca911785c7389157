"""What becomes of a restore that was cut off: pure functions from what lies on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lensd.jobs.recover_decision import Content


@dataclass(frozen=True, slots=True)
class Facts:
    """ORIGINAL is what the restore puts back, OUTPUT what it replaces.

    `is_staged`: the original was complete under the temporary, so that the names may have been
    exchanged. `is_archived`: the archive has a file where the original was.
    """

    named: Content
    temporary: Content
    is_staged: bool
    is_archived: bool


class Clearing(Enum):
    """What to do with the temporary."""

    NOTHING = "there is none"
    UNLINK = "unlink it: lensd made it, and the original is elsewhere"
    UNLINK_OUTPUT = "unlink it if it is still the output that lensd wrote, else rescue it"
    RESCUE = "rescue it"


def is_complete(facts: Facts) -> bool:
    """Whether the original got its name; else the restore is taken back."""
    if not facts.is_staged or facts.named is Content.OUTPUT:
        return False
    if facts.named is Content.ORIGINAL or facts.temporary is Content.OUTPUT:
        return True  # if another file has the name by now, it came after the original
    return not facts.is_archived and facts.temporary is not Content.ORIGINAL


def clear_temporary(facts: Facts) -> Clearing:
    if facts.temporary is Content.NOTHING:
        return Clearing.NOTHING
    if facts.temporary is Content.ORIGINAL or not facts.is_staged:
        has_another = facts.is_archived or facts.named is Content.ORIGINAL
        return Clearing.UNLINK if has_another else Clearing.RESCUE
    return Clearing.UNLINK_OUTPUT if facts.temporary is Content.OUTPUT else Clearing.RESCUE
