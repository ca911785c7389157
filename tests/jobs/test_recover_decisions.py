"""What recovery does with each state of the ledger, and each file that it may find there: a table.

Names have the initial of what lies under them: nothing, the output, the original (`in`), or other
bytes.
"""

from __future__ import annotations

from itertools import product

import pytest

from lensd.jobs.recover_decision import Content, Facts, Verdict, decide
from lensd.store.ledger.states import UNDER_WAY, JobState

NOTHING, OUTPUT, ORIGINAL, OTHER = Content
RUNNING, STAGED, PUBLISHING, PUBLISHED = UNDER_WAY
COMPLETE, UNLINK_AND_COMPLETE, RESCUE_AND_COMPLETE, REQUEUE, DISCARD, UNLINK, RESCUE, SWAP = Verdict

# under the temporary: nothing, output, original, archived original, the same with a writer, other
TEMPORARIES = (
    (NOTHING, False, False),
    (OUTPUT, True, False),
    (ORIGINAL, False, False),
    (ORIGINAL, True, False),
    (ORIGINAL, True, True),
    (OTHER, True, False),
)


@pytest.mark.parametrize(
    ("state", "named", "verdicts"),
    [
        (RUNNING, NOTHING, (REQUEUE, DISCARD, DISCARD, DISCARD, DISCARD, DISCARD)),
        (RUNNING, ORIGINAL, (REQUEUE, DISCARD, DISCARD, DISCARD, DISCARD, DISCARD)),
        (RUNNING, OTHER, (REQUEUE, DISCARD, DISCARD, DISCARD, DISCARD, DISCARD)),
        (STAGED, NOTHING, (REQUEUE, DISCARD, RESCUE, UNLINK, RESCUE, RESCUE)),
        (STAGED, ORIGINAL, (REQUEUE, DISCARD, RESCUE, UNLINK, RESCUE, RESCUE)),
        (STAGED, OTHER, (REQUEUE, DISCARD, RESCUE, UNLINK, RESCUE, RESCUE)),
        (PUBLISHING, NOTHING, (REQUEUE, DISCARD, RESCUE, UNLINK_AND_COMPLETE, RESCUE, RESCUE)),
        (PUBLISHING, ORIGINAL, (REQUEUE, DISCARD, RESCUE, UNLINK_AND_COMPLETE, RESCUE, RESCUE)),
        (PUBLISHING, OTHER, (REQUEUE, DISCARD, RESCUE, UNLINK_AND_COMPLETE, RESCUE, RESCUE)),
        (PUBLISHING, OUTPUT, (COMPLETE, DISCARD, SWAP, UNLINK_AND_COMPLETE, SWAP, SWAP)),
        (
            PUBLISHED,
            None,  # whatever lies under the name
            (
                COMPLETE,
                RESCUE_AND_COMPLETE,
                RESCUE_AND_COMPLETE,
                UNLINK_AND_COMPLETE,
                RESCUE_AND_COMPLETE,
                RESCUE_AND_COMPLETE,
            ),
        ),
    ],
)
def test_the_rules(state: JobState, named: Content | None, verdicts: tuple[Verdict, ...]) -> None:
    """For each content of the temporary."""
    for content in Content if named is None else (named,):
        for (temporary, is_archived, has_writer), verdict in zip(
            TEMPORARIES, verdicts, strict=True
        ):
            facts = Facts(state, content, temporary, is_archived, has_writer)
            assert verdict is decide(facts), facts


def _all_facts() -> list[Facts]:
    booleans = (False, True)
    return [Facts(*f) for f in product(UNDER_WAY, Content, Content, booleans, booleans, booleans)]


def test_a_missing_folder() -> None:
    """Only a job that was published is complete; the others find out that their file is gone."""
    for facts in _all_facts():
        if facts.is_folder_missing:
            expected = COMPLETE if facts.state == PUBLISHED else REQUEUE
            assert expected is decide(facts), facts


def test_nothing_is_unlinked_that_may_be_lost() -> None:
    """An original only if the archive has it and no program writes to it; other bytes only in the
    state in which lensd alone has written them.
    """
    for facts in _all_facts():
        verdict = decide(facts)
        if verdict in (UNLINK, UNLINK_AND_COMPLETE):
            assert facts.temporary is ORIGINAL, facts
            assert facts.is_archived, facts
            assert not facts.has_writer, facts
        if verdict is DISCARD:
            assert facts.state == RUNNING or facts.temporary is OUTPUT, facts


def test_a_job_is_complete_only_after_the_exchange() -> None:
    """The ledger says so, or the output has the name, or the original has the temporary's."""
    for facts in _all_facts():
        if decide(facts).completes:
            is_exchanged = facts.named is OUTPUT or facts.temporary is ORIGINAL
            assert facts.state == PUBLISHED or (facts.state == PUBLISHING and is_exchanged), facts


def test_to_swap_back_needs_no_second_time() -> None:
    """After it the output has the temporary's name, or bytes that are rescued."""
    for facts in _all_facts():
        if decide(facts) is SWAP:
            after = Facts(facts.state, facts.temporary, facts.named, facts.is_archived)
            assert decide(after) is DISCARD, facts
