"""Processes single files one by one, for `lensd analyze` and `lensd compress`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, Failed, FileError, Outcome, Reason
from lensd.text import printable

if TYPE_CHECKING:
    from lensd.cli.views.progress import Bar

D = TypeVar("D", bound=msgspec.Struct)

# Nothing is wrong with these files.
_FINE = {Reason.ALREADY_COMPRESSED} | {r for r in Reason if r.outcome is Outcome.KEPT}


def process_files(
    files: Sequence[str],
    process: Callable[[str, Bar], D],
    show: Callable[[D, Bar], None],
    *,
    as_json: bool,
    needs_lora: bool = False,
) -> int:
    """Process each file and print its document: as a line of JSON, or with `show`.

    A file that ends with a FileError gets a message on stderr. Returns the exit code: 1 for a
    failed file, and with `needs_lora` also for one that lensd does not handle.
    """
    from lensd.cli.views.progress import Bar
    from lensd.report.documents import Unprocessed
    from lensd.report.json_text import to_json

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
                bar.say(f"{error.outcome}: {path}: {error.message}")
                is_fault = isinstance(error, Failed) or (needs_lora and error.reason not in _FINE)
                code = EXIT_SOME_FAILED if is_fault else code
                document = Unprocessed(
                    path=printable(path), reason=error.reason, message=error.message
                )
            bar.end(path)
            if as_json:
                bar.print_line(to_json(document))
            elif not isinstance(document, Unprocessed):
                show(document, bar)
    return code
