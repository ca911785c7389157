"""The command line: a verb's module is imported when the verb is used, and not before."""

from __future__ import annotations

import importlib
import os
import platform
import select
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import click

from lensd import __version__
from lensd.errors import EXIT_BUG, EXIT_INTERRUPTED, LensdError
from lensd.text import visible_lines

EXIT_PIPE = 141  # as shells count: 128 + SIGPIPE

# verb -> (module:function, its line in `lensd --help`)
LAZY: dict[str, tuple[str, str]] = {
    "run": ("lensd.cli.run:run", "Watch the folders and compress what arrives (the daemon)."),
    "once": ("lensd.cli.once:once", "Process what is there now, then exit."),
    "check": ("lensd.cli.check:check", "Find every fault of the configuration at once."),
    "config": ("lensd.cli.config:config", "Print a commented example, or the JSON Schema."),
    "service": (
        "lensd.cli.service:service",
        "Print what systemd's unit needs for this configuration.",
    ),
    "status": ("lensd.cli.status:status", "Show the queue, what waits and why, and the totals."),
    "report": ("lensd.cli.report:report", "Show what was saved, what failed and why."),
    "restore": ("lensd.cli.restore:restore", "Put originals back, bit for bit."),
    "retry": ("lensd.cli.retry:retry", "Try failed and quarantined files again."),
    "pause": ("lensd.cli.pause:pause", "Pause the job queue."),
    "resume": ("lensd.cli.resume:resume", "End a pause of the job queue."),
    "verify": ("lensd.cli.verify:verify", "Read archive and outputs again; tell what is damaged."),
    "prune": ("lensd.cli.prune:prune", "Delete archived originals that are older than keep_days."),
    "analyze": ("lensd.cli.analyze:analyze", "Show what a LoRA would shrink to; change nothing."),
    "compress": ("lensd.cli.compress:compress", "Compress a file to a new one, without a daemon."),
    "expand": ("lensd.cli.expand:expand", "Make an int8 LoRA float16 again, for any program."),
    "compare": ("lensd.cli.compare:compare", "Tell how far two LoRAs are apart, by module."),
    "completion": (
        "lensd.cli.completion:completion",
        "Print the script that makes a shell complete commands.",
    ),
    "schema": ("lensd.cli.schema:schema", "Print the JSON Schema of the log or of a --json."),
}


# Where a section of `lensd --help` begins: its title, by its first verb.
SECTIONS = {
    "run": "The daemon",
    "status": "What it did and does",
    "analyze": "Single files, without daemon and archive",
    "completion": "For shells and scripts",
}


class Group(click.Group):
    """Commands, and for a mistyped one the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises UsageError with the command that may have been meant."""
        known = self.list_commands(ctx)
        if not (args[0] in known or args[0].startswith("-") or ctx.resilient_parsing):
            raise click.UsageError(_unknown(args[0], known), ctx)
        return super().resolve_command(ctx, args)


class Verbs(Group):
    """The group of all verbs, and the one place where errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(LAZY)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in LAZY:
            return None
        module, _, function = LAZY[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), function)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{function} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        width = max(map(len, LAZY))
        for title, verbs in _sections():
            with formatter.section(title):
                formatter.write_dl([(v.ljust(width), LAZY[v][1]) for v in verbs])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; its return value is the exit code (None: 0)."""
        signal.signal(signal.SIGTERM, _end)  # `run` and `once` have their own
        try:
            code = super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise  # click's own: usage errors (2) and what --help and --version end with
        except LensdError as error:
            say(f"error: {error}")
            code = error.exit_code
        except KeyboardInterrupt:
            say("interrupted")
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            code = _reader_left() or _report_bug()
        except Exception:  # noqa: BLE001 - whatever else escapes a verb is a bug, and is told as one
            code = _report_bug()
        ctx.exit(code or 0)


def say(message: str) -> None:
    """A message for a person, on stderr: stdout is for data."""
    click.echo(visible_lines(f"lensd: {message}"), err=True)


def _sections() -> Iterator[tuple[str, list[str]]]:
    """The verbs in their order, under the titles of SECTIONS."""
    verbs = list(LAZY)
    starts = [n for n, verb in enumerate(verbs) if verb in SECTIONS]
    for start, end in pairwise([*starts, len(verbs)]):
        yield SECTIONS[verbs[start]], verbs[start:end]


def _unknown(word: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # only who mistypes needs it

    if os.path.isfile(word):
        return f"{word!r} is a file, not a command. Did you mean `lensd analyze {word}`?"
    close = get_close_matches(word, known, n=2)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"there is no command {word!r}.{hint}"


def _reader_left() -> int | None:
    """`lensd ... | head`: be quiet, also when Python flushes stdout at its end.

    None when stdout still has its reader: then the broken pipe was another one.
    """
    stdout = sys.stdout.fileno()
    poll = select.poll()
    poll.register(stdout, select.POLLOUT)
    if not any(flags & (select.POLLERR | select.POLLHUP) for _, flags in poll.poll(0)):
        return None
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return EXIT_PIPE


def _end(number: int, _: object) -> None:
    """As ^C: temporaries go, and a terminal gets its cursor back."""
    raise SystemExit(128 + number)


def _report_bug() -> int:
    traceback.print_exc()
    say(
        "this is a bug in lensd; please report it with the lines above "
        f"(lensd {__version__}, Python {platform.python_version()})"
    )
    return EXIT_BUG


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lensd", message="%(prog)s %(version)s")
def main() -> None:
    """Make LoRA files several times smaller, and keep every original safe.

    Begin with a configuration, look before anything is changed, then let it run:

    \b
    lensd config example > config.yaml      name your folder and the archive
    lensd check                             every fault at once, with its remedy
    lensd once --dry-run                    what would happen and be saved
    lensd once                              treat what is there, after a question
    lensd run                               the daemon: what arrives from now on
    lensd restore loras/style.safetensors   the original back, bit for bit

    `lensd COMMAND --help` explains each command with examples. README.md and docs/ in lensd's
    sources have the rest: service, modes, programs, log, what is safe at a crash.

    Exit codes: 0 fine, 1 some files failed, 2 usage, 3 bug, 4 configuration, 5 storage,
    6 another lensd is in the way, 130 interrupted.
    """
