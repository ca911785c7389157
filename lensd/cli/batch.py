"""Processes single files one by one, for `lensd analyze` and `lensd compress`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, Failed, FileError
from lensd.text import printable

if TYPE_CHECKING:
    from lensd.cli.views.progress import Bar

D = TypeVar("D", bound=msgspec.Struct)


def process_files(
    files: Sequence[str],
    process: Callable[[str, Bar], D],
    show: Callable[[D, Bar], None],
    *,
    as_json: bool,
) -> int:
    """Process each file and print its document: as a line of JSON, or with `show`.

    A file that ends with a FileError gets a message on stderr. Returns the exit code.
    """
    from lensd.cli.views.progress import Bar
    from lensd.report.documents import Unprocessed, to_json

    code = EXIT_OK
    with Bar({path: os.path.getsize(path) for path in files}) as bar:
        for path in files:
            bar.begin(path)
            document: D | Unprocessed
            try:
                document = process(path, bar)
                for warning in getattr(document, "warnings", None) or ():
                    bar.say(f"warning: {path}: {warning}")
            except FileError as error:
                bar.say(f"{error.outcome}: {path}: {error}")
                code = EXIT_SOME_FAILED if isinstance(error, Failed) else code
                document = Unprocessed(
                    path=printable(path), reason=error.reason, message=str(error)
                )
            bar.end(path)
            if as_json:
                bar.print_line(to_json(document))
            elif not isinstance(document, Unprocessed):
                show(document, bar)
    return code
