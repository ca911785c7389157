"""The command line. A command's module is imported only when the command is used."""

from __future__ import annotations

import importlib
import os
import platform
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, pairwise
from typing import Any

import click

from lensd import __version__
from lensd.cli.surroundings import OUTPUT, prepare, silence_stdout
from lensd.errors import EXIT_BUG, EXIT_INTERRUPTED, LensdError, StorageError
from lensd.text import break_line, visible, visible_lines

EXIT_PIPE = 141  # as shells count: 128 + SIGPIPE

# name -> (module:function, its line in `lensd --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("lensd.cli.init:init", "Ask for folders and write a first configuration."),
    "run": ("lensd.cli.run:run", "Watch folders and compress new LoRA files (the daemon)."),
    "once": ("lensd.cli.once:once", "Process the files that are there now, then exit."),
    "check": ("lensd.cli.check:check", "List all faults of the configuration."),
    "config": (
        "lensd.cli.config:config",
        "Print an example configuration, its schema, or lnav's format.",
    ),
    "service": (
        "lensd.cli.service:service",
        "Print the systemd drop-in that this configuration needs.",
    ),
    "notify": ("lensd.cli.notify:notify", "Send messages about failures, disks and savings."),
    "status": ("lensd.cli.status:status", "Show the queue, files that wait, problems and totals."),
    "web": ("lensd.cli.web:web", "Serve a live page for a browser."),
    "report": ("lensd.cli.report:report", "Show what was saved, and what failed and why."),
    "restore": ("lensd.cli.restore:restore", "Put originals back, bit for bit."),
    "retry": ("lensd.cli.retry:retry", "Try failed and quarantined files again."),
    "pause": ("lensd.cli.pause:pause", "Pause the job queue."),
    "resume": ("lensd.cli.resume:resume", "End a pause of the job queue."),
    "verify": ("lensd.cli.verify:verify", "Read originals and outputs again; report damage."),
    "prune": ("lensd.cli.prune:prune", "Delete archived originals that may go."),
    "analyze": ("lensd.cli.analyze:analyze", "Show how small a LoRA would become; change nothing."),
    "compress": ("lensd.cli.compress:compress", "Compress a LoRA to a new file, without a daemon."),
    "batch": ("lensd.cli.batch:batch", "Compress a collection to another folder or bucket."),
    "expand": ("lensd.cli.expand:expand", "Convert an 8-bit LoRA to float16, for any program."),
    "compare": ("lensd.cli.compare:compare", "Measure how far two LoRAs are apart, by module."),
    "completion": (
        "lensd.cli.completion:completion",
        "Print the script with which a shell completes commands.",
    ),
    "schema": (
        "lensd.cli.schema:schema",
        "Print the JSON Schema of the log or of a --json output.",
    ),
}

# The sections of `lensd --help`: the title of each, by its first command.
SECTIONS = {
    "init": "Daemon and configuration",
    "status": "Queue, results and originals",
    "analyze": "Files and collections, without daemon and archive",
    "completion": "For shells and scripts",
}


class Group(click.Group):
    """A group of commands that suggests the nearest name for a mistyped one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises UsageError, with the nearest name, for a command that does not exist."""
        known = self.list_commands(ctx)
        if not (args[0] in known or args[0].startswith("-") or ctx.resilient_parsing):
            raise click.UsageError(_describe_unknown(args[0], known), ctx)
        return super().resolve_command(ctx, args)


class Commands(Group):
    """All commands of lensd. `invoke` is the one place that turns errors into exit codes."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run lensd; what click itself prints, such as a help, may meet a full disk too."""
        prepare()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            code = _drop_unwritten_output(error)
            if code is None:
                raise
            sys.exit(code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), function)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{function} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        width = max(map(len, COMMANDS))
        for title, names in _sections():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), COMMANDS[name][1]) for name in names])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; its return value is the exit code (None: 0)."""
        signal.signal(signal.SIGTERM, _exit_on_signal)  # `run` and `once` set their own handlers
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()  # at the end of the process an error would have no message
        except (click.ClickException, click.exceptions.Exit) as error:
            raise _folded(error) from None  # click handles usage errors (2), --help and --version
        except click.Abort:  # ^C or ^D at a question, all of which come before any change
            click.echo(err=True)
            say("interrupted; nothing was written")
            code = EXIT_INTERRUPTED
        except LensdError as error:
            say(f"error: {error}")
            code = error.exit_code
        except KeyboardInterrupt:
            say("interrupted")
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            code = _silence_closed_stdout() or _report_bug()
        except OSError as error:
            code = _drop_unwritten_output(error) or _report_bug()
        except Exception:  # noqa: BLE001 - every other exception is a bug
            code = _report_bug()
        ctx.exit(code or 0)


def _folded(error: Exception) -> Exception:
    """A usage error in lines that fit the terminal, which would break words; others as they are."""
    if not (isinstance(error, click.UsageError) and sys.stderr.isatty()):
        return error
    if type(error).show is not click.UsageError.show:  # it prints the help
        return error
    text = fold(f"Error: {error.format_message()}").removeprefix("Error: ")
    return click.UsageError(text, error.ctx)


def say(message: str) -> None:
    """Print a message for people on stderr, which may be on a full disk; stdout is for data."""
    text = visible_lines(f"lensd: {message}")
    with suppress(OSError):
        click.echo(fold(text) if sys.stderr.isatty() else text, err=True)


def show_line(text: str, *, err: bool = False) -> None:
    """Print a line for people on stdout or stderr; a terminal does not break its words."""
    stream = sys.stderr if err else sys.stdout
    line = visible(text)
    click.echo(fold(line) if stream.isatty() else line, err=err)


def fold(text: str) -> str:
    """The text in lines that fit the terminal, which would break words."""
    width = shutil.get_terminal_size().columns
    lines = (
        break_line(line, width, "  ") if len(line) > width else [line] for line in text.split("\n")
    )
    return "\n".join(chain.from_iterable(lines))


def _sections() -> Iterator[tuple[str, list[str]]]:
    """(title, commands) of each section, in the order of COMMANDS."""
    names = list(COMMANDS)
    starts = [n for n, name in enumerate(names) if name in SECTIONS]
    for start, end in pairwise([*starts, len(names)]):
        yield SECTIONS[names[start]], names[start:end]


def _describe_unknown(word: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # needed only after a mistyped command

    if os.path.isfile(word):
        return f"{word!r} is a file, not a command. Did you mean `lensd analyze {word}`?"
    close = get_close_matches(word, known, n=2)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"there is no command {word!r}.{hint}"


def _silence_closed_stdout() -> int | None:
    """Handle `lensd ... | head`: the reader closed stdout, so drop all further output.

    Returns EXIT_PIPE, or None if stdout is still open: then another pipe broke.
    """
    stdout = sys.stdout.fileno()
    poll = select.poll()
    poll.register(stdout, select.POLLOUT)
    if not any(flags & (select.POLLERR | select.POLLHUP) for _, flags in poll.poll(0)):
        return None
    silence_stdout()
    return EXIT_PIPE


def _drop_unwritten_output(error: OSError) -> int | None:
    """Handle an error of stdout, e.g. `lensd status > file` on a full disk.

    Returns the exit code, or None if the error is of something else.
    """
    if error.filename != OUTPUT:
        return None
    silence_stdout()
    say(
        f"error: the output cannot be written: {error.strerror}; free space on its disk, or write "
        "it to another place"
    )
    return StorageError.exit_code


def _exit_on_signal(number: int, _: object) -> None:
    """End as ^C does: temporaries are deleted and the terminal gets its cursor back."""
    raise SystemExit(128 + number)


def _report_bug() -> int:
    traceback.print_exc()
    say(
        "this is a bug in lensd; please report it with the lines above "
        f"(lensd {__version__}, Python {platform.python_version()})"
    )
    return EXIT_BUG


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lensd", message="%(prog)s %(version)s")
def main() -> None:
    """Make LoRA files several times smaller and keep every original.

    Write a configuration, look at the plan, then start:

    \b
    lensd init                              ask, and write a configuration
    lensd check                             list its faults, with remedies
    lensd once --dry-run                    show what would happen; change nothing
    lensd once                              process the files that are there now
    lensd run                               start the daemon for new files
    lensd restore loras/style.safetensors   put an original back, bit for bit

    `lensd COMMAND --help` explains a command and has examples. README.md and docs/ in lensd's
    sources explain the service, modes, programs, log, and what happens at a crash.

    Exit codes: 0 success, 1 some files failed, 2 usage, 3 a bug in lensd, 4 configuration,
    5 storage, 6 another lensd uses the same folders, 130 interrupted.
    """
