"""`lensd restore`: put originals back, bit for bit."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from lensd.cli.options import LORA_OR_FOLDER, config_option, find_named, load_config, verbose_option
from lensd.errors import EXIT_OK, LensdError, UsageError
from lensd.text import plural, size, visible

if TYPE_CHECKING:
    from lensd.cli.views.file_lines import ShortPaths
    from lensd.cli.views.progress import Bar
    from lensd.config.model import Config
    from lensd.daemon.control_messages import Message, RestoreRequest
    from lensd.jobs.originals import Original

SHOWN = 20  # messages about restored files at a terminal; -v shows all


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
@click.option("--all", "everything", is_flag=True, help="Restore every original in the archive.")
@click.option("--list", "list_", is_flag=True, help="List what can be restored; change nothing.")
@click.option("--version", metavar="SHA", help="An older original, by the start of its sha256.")
@click.option("--purge", is_flag=True, help="Keep no copy in an archive on another disk.")
@verbose_option
def restore(
    config: str | None,
    paths: tuple[str, ...],
    everything: bool,
    list_: bool,
    version: str | None,
    purge: bool,
    verbose: bool,
) -> int:
    """Put originals back, bit for bit.

    PATHS are files or folders in the watched folders, by the names that they have there, or
    patterns in quotes. lensd does not compress a restored file again, until its content changes or
    `lensd once --redo` names it.

    \b
    lensd restore --list                   list the originals in the archive
    lensd restore loras/style.safetensors  restore one file
    lensd restore loras/sdxl 'loras/ink*'  restore a folder, and a pattern
    lensd restore --all                    restore every file, e.g. to uninstall
    """
    from lensd.cli.client import handle_request
    from lensd.daemon.control_messages import RestoreRequest

    if not (paths or everything or list_):
        raise UsageError(
            "give files or folders to restore, or --all for every file; --list shows what there is"
        )
    if paths and everything:
        raise UsageError("--all restores every file; give it or the paths, not both")
    found = load_config(config)
    request = RestoreRequest(
        paths=tuple(map(os.path.abspath, find_named(found, paths))),
        everything=everything or (list_ and not paths),
        version=version,
        purge=purge,
    )
    if list_:
        _show(_find_originals(found, request), found)
        return EXIT_OK
    if sys.stderr.isatty():
        return _restore_with_bar(found, request, verbose=verbose)
    return handle_request(found, request)


def _restore_with_bar(config: Config, request: RestoreRequest, *, verbose: bool) -> int:
    from lensd.cli.client import handle_request
    from lensd.cli.views.file_lines import ShortPaths
    from lensd.cli.views.progress import Bar

    originals: list[Original] = []
    with suppress(LensdError):  # the handler reports it
        originals = _find_originals(config, request)
    with Bar({o.full_path: o.bytes for o in originals}) as bar:
        progress = _RestoreProgress(bar, originals, ShortPaths.of(config.watch), verbose=verbose)
        return handle_request(config, request, progress.receive)


class _RestoreProgress:
    """Shows messages above a bar, and on the bar which file is restored now.

    Of many files only the first have a message, unless it is `verbose`.
    """

    def __init__(
        self, bar: Bar, originals: Sequence[Original], paths: ShortPaths, *, verbose: bool
    ) -> None:
        self._bar, self._paths, self._verbose = bar, paths, verbose
        self._waiting = dict.fromkeys(o.full_path for o in originals)
        self._begin_next()

    def receive(self, message: Message) -> None:
        from lensd.daemon.control_messages import Progress

        is_shown = self._verbose or not isinstance(message, Progress) or message.method is None
        if is_shown or (isinstance(message, Progress) and message.done <= SHOWN):
            self._bar.say(self._paths.text(message.say))
        if isinstance(message, Progress):
            self._bar.end(message.path)
            self._waiting.pop(message.path, None)
            self._begin_next()

    def _begin_next(self) -> None:
        """The handler restores in the order of the originals."""
        path = next(iter(self._waiting), None)
        if path is not None:
            self._bar.begin(path)


def _find_originals(config: Config, request: RestoreRequest) -> list[Original]:
    """The originals by the ledger; changes nothing. Raises UsageError, StorageError."""
    from lensd.cli.client import read_only_handler

    with read_only_handler(config) as handler:
        return handler.find_originals(request)


def _show(originals: Sequence[Original], config: Config) -> None:
    """One original per line; at a terminal without the archive path, in lines that fit."""
    from lensd.cli.views.file_lines import ShortPaths, shorten
    from lensd.cli.views.terminal import console, is_for_people, show

    if not is_for_people():
        show(*(visible(_describe(original)) for original in originals))
        return
    if originals:
        show(f"{'bytes':>8}  {'sha256':<12}  original of")
    paths, width = ShortPaths.of(config.watch), console().width
    for o in originals:
        numbers = f"{size(o.bytes):>8}  {o.sha256[:12]}  "
        show(f"{numbers}{shorten(paths.path(o.full_path), width - len(numbers))}")
    total = size(sum(o.bytes for o in originals))
    show("", f"{plural(len(originals), 'original')}, {total}")


def _describe(original: Original) -> str:
    bytes_ = size(original.bytes) if original.bytes else "?"
    return (
        f"{original.full_path}  {bytes_}  sha256 {original.sha256[:12]}  in {original.archive_path}"
    )
