"""The man page lensd(1), made from the help of the commands. `tests.docs.rendering` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from lensd import __version__
from lensd.cli import COMMANDS, main
from lensd.config.load import SEARCH_PATHS


def man_page() -> str:
    """The page as roff, with the macros of man(7)."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield r".\" Made from the help of the commands: python -m tests.docs.rendering"
    yield f'.TH LENSD 1 "" "lensd {__version__}" "User Commands"'
    yield ".ad l"
    yield ".SH NAME"
    yield r"lensd \- make LoRA files smaller and keep every original"
    yield ".SH SYNOPSIS"
    yield r".B lensd"
    yield r"\fICOMMAND\fR [\fIOPTION\fR]... [\fIFILE\fR]..."
    yield ".SH DESCRIPTION"
    yield from _help(main)
    yield ".SH COMMANDS"
    context = click.Context(main, info_name="lensd")
    for verb in COMMANDS:
        command = main.get_command(context, verb)
        if command is not None:
            yield from _command(command, click.Context(command, info_name=verb, parent=context))
    yield ".SH FILES"
    for path in SEARCH_PATHS:
        yield ".TP"
        yield rf"\fI{_text(path)}\fR"
        yield "The configuration; the first one that exists is used."
    yield ".SH SEE ALSO"
    yield "README.md and docs/ of the sources of lensd."


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield f'.SS "{_text(context.command_path)} {_text(usage)}"'
    yield from _help(command)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record and "--help" not in parameter.opts:
            yield ".TP"
            yield rf"\fB{_text(record[0])}\fR"
            yield _line(record[1])
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield ".TP"
            yield rf"\fB{_text(f'{context.command_path} {name}')}\fR"
            yield _line(sub.get_short_help_str(200))


def _help(command: click.Command) -> Iterator[str]:
    """Paragraphs; those after a backspace, as click wants, keep their lines."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield ".PP"
        if paragraph.startswith("\b"):
            yield ".nf"
            yield from map(_line, paragraph.splitlines()[1:])
            yield ".fi"
        else:
            yield _line(" ".join(paragraph.split()))


def _line(text: str) -> str:
    """A line of text; a dot or a quote at its start would be a macro."""
    shown = _text(text)
    return rf"\&{shown}" if shown.startswith((".", "'")) else shown


def _text(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
