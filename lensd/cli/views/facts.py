"""Prints what `lensd check` found: facts with their labels, and sentences."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import click

from lensd.cli import show_line
from lensd.cli.views.file_lines import wrap
from lensd.cli.views.terminal import console, is_for_people
from lensd.text import visible, visible_lines


class Fact(NamedTuple):
    """A text with a label of 8 characters at most; "" continues the fact before."""

    label: str
    text: str


class Sentence(NamedTuple):
    """`is_exact`: a terminal shortens no word of it, since a person may copy a command."""

    text: str
    is_exact: bool = False


Found: TypeAlias = Fact | Sentence


def show_found(found: Found) -> None:
    """Print it; a terminal gets the text of each fact in one column."""
    if isinstance(found, Fact):
        head = f"  {found.label:<8} "
        lines, indent = [visible(head + found.text)], len(head)
    else:
        lines, indent = visible_lines(found.text).split("\n"), 2
    is_exact = isinstance(found, Sentence) and found.is_exact
    for line in lines:
        if is_for_people() and not is_exact:
            click.echo("\n".join(wrap(line, console().width, " " * indent)))
        else:
            show_line(line)
