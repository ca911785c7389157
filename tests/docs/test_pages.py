"""Links and command lines in the documentation are right."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lensd.cli import COMMANDS, main
from tests.docs import markdown
from tests.docs.rendering import PAGES, REPOSITORY

TEXTS = [*PAGES, REPOSITORY / "systemd/lensd.service", REPOSITORY / "config.example.yaml"]
# Verbs that the documentation names as not there yet.
LATER: tuple[str, ...] = ()


def _command_lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for command in markdown.command_lines(page):
            yield page.name, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links name files of the tree, and anchors their headings."""
    for link in markdown.links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in markdown.anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize(("page", "command"), sorted(set(_command_lines())))
def test_command_lines_parse(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every `lensd ...` names a verb that there is, with options and values that it takes."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(re.split(r" \\?[|>] ", command)[0])[1:]
    if words[0] == "COMMAND" or words[0] in LATER:
        return
    for word in words[1:]:  # some verbs want files that are there
        if not word.startswith(("/", "-")):
            path = tmp_path / word
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    if words[0].startswith("-"):
        assert words[0] in ("--version", "--help"), f"{page}: {command}"
        return
    group: click.Command = main
    while isinstance(group, click.Group) and words:
        context = click.Context(group)
        found = group.get_command(context, words[0])
        assert found is not None, f"{page}: there is no {words[0]!r} in {command!r}"
        group, words = found, words[1:]
    if words and words != ["--help"]:
        group.make_context(command, words, resilient_parsing=False)


def test_later_verbs_are_not_there_yet() -> None:
    """What the documentation calls missing is missing."""
    assert not set(LATER) & set(COMMANDS)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_no_path_of_a_machine(page: Path) -> None:
    """No folder of whoever wrote the text, and no line longer than a terminal likes."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"/(work|root|tmp|home/[a-z]+)/\w", text)
    if page.suffix == ".md":
        plain = [line for line in markdown.prose(text).splitlines() if not line.startswith("|")]
        assert max(map(len, plain), default=0) <= 125
