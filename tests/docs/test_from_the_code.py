"""The parts of the documentation that say what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from lensd import errors
from lensd.cli import COMMANDS
from lensd.report import schema
from lensd.store.ledger import JobState
from tests.docs import markdown
from tests.docs.rendering import PAGES, PART, RENDERERS, REPOSITORY, rendered

EXIT_CODES = {
    errors.EXIT_OK,
    errors.EXIT_SOME_FAILED,
    errors.EXIT_BUG,
    errors.EXIT_INTERRUPTED,
    *(
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.LensdError)
    ),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parts_from_the_code_are_up_to_date(page: Path) -> None:
    """Tables of commands, keys, events, namings and programs equal what the code says.

    `python -m tests.docs.rendering` writes them anew.
    """
    text = page.read_text(encoding="utf-8")
    assert rendered(text) == text


def test_every_part_is_shown_somewhere() -> None:
    """No table that the code can make is missing from the documentation."""
    found = [name for page in PAGES for _, name, _, _ in PART.findall(page.read_text())]
    assert sorted(RENDERERS) == sorted(found)


def test_every_reason_is_explained_once() -> None:
    """docs/errors.md has one row per reason code, and none for a code that there is not."""
    page = (REPOSITORY / "docs/errors.md").read_text(encoding="utf-8")
    rows = markdown.first_cells(markdown.section(page, "Reasons"))
    assert sorted(errors.Reason) == sorted(set(rows) - {"reason"})
    assert len(rows) - rows.count("reason") == len(errors.Reason)


def test_every_row_of_a_reason_says_what_to_do() -> None:
    """Cause and remedy: three cells, none of them empty."""
    page = (REPOSITORY / "docs/errors.md").read_text(encoding="utf-8")
    for line in markdown.section(page, "Reasons").splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 3, line
            assert all(len(cell) > 3 for cell in cells), line


def test_every_exit_code_is_explained() -> None:
    """docs/errors.md has a row per exit code of the errors' tree."""
    page = (REPOSITORY / "docs/errors.md").read_text(encoding="utf-8")
    rows = markdown.first_cells(markdown.section(page, "Exit codes"))
    assert {0, 1, 2, 3, 4, 5, 6, 130} == EXIT_CODES
    assert {str(code) for code in EXIT_CODES} <= set(rows)


def test_every_event_and_every_verb_has_a_row() -> None:
    """docs/operations.md, whatever the tables are made from."""
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    rows = markdown.first_cells(page)
    assert set(schema.events()) <= set(rows)
    assert {f"lensd {verb}" for verb in COMMANDS} <= set(rows)


def test_every_reason_of_a_degraded_folder_or_disk_has_its_row() -> None:
    """In the section of docs/operations.md about disks."""
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    disks = markdown.section(page, "Disks that are full, read-only or away")
    assert set(errors.DegradedReason) == set(markdown.first_cells(disks)) - {"reason"}


def _layers() -> list[str]:
    tree = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[str] = tree["tool"]["importlinter"]["contracts"][0]["layers"]
    return found


def test_the_direction_of_imports_is_told_as_it_is_held() -> None:
    """CONTRIBUTING.md has the layers of pyproject.toml, in their order."""
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = page.partition("Imports go down this list only: ")[2].partition(";")[0]
    assert re.findall(r"`([^`]+)`", told) == _layers()


def test_every_folder_has_its_row() -> None:
    """In CONTRIBUTING.md's table of folders, and in that of docs/design.md."""
    folders = {name for layer in _layers() for name in re.split(r" [|:] ", layer)}
    table = markdown.section((REPOSITORY / "CONTRIBUTING.md").read_text("utf-8"), "The folders")
    assert folders - set(re.findall(r"`lensd/(\w+)(?:/|\.py)`", table)) == set()
    table = markdown.section((REPOSITORY / "docs/design.md").read_text("utf-8"), "The folders")
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    assert folders - {name for row in rows for name in re.findall(r"`(\w+)/?`", row)} == set()


def test_every_state_of_the_ledger_has_its_row() -> None:
    """docs/operations.md tells for each state what the next start does."""
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    rows = markdown.first_cells(markdown.section(page, "What happens at a crash"))
    assert set(JobState) == set(rows) - {"state in the ledger"}
