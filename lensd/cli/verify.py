"""`lensd verify`: read originals and outputs again, and compare them with the ledger."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import click
import msgspec

from lensd.cli.options import LORA_OR_FOLDER, config_option, find_named, load_config
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError
from lensd.store.paths import is_below, resolve_path
from lensd.text import plural, printable, size, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lensd.cli.views.progress import Bar
    from lensd.config.model import Config
    from lensd.jobs.verify import Finding, Key, Verifier


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(config: str | None, paths: tuple[str, ...], *, as_json: bool) -> int:
    """Read every original and every compressed file again; report damaged and missing ones.

    PATHS are files or folders in the watched folders; without them, lensd verifies all files. Works
    with and without a running daemon, and changes nothing. Exit code 1: a file is damaged, missing
    or unreadable. It is no fault if another program replaced or deleted a file.

    \b
    lensd verify                      at a terminal, it lists only faults
    lensd verify | less               one line for every file
    lensd verify /srv/loras/style     verify one folder
    """
    from lensd.cli.views.file_lines import ShortPaths
    from lensd.cli.views.progress import Bar
    from lensd.cli.views.terminal import is_for_people
    from lensd.jobs.verify import Verifier
    from lensd.store.archive import Archive
    from lensd.store.ledger import Ledger

    found = load_config(config)
    paths = find_named(found, paths)
    selection = _Selection(found, paths)
    faults_only = is_for_people()
    short = ShortPaths.of(found.watch)
    findings = []
    with Ledger.read_only(found.state.path) as ledger:
        verifier = Verifier(ledger, Archive(os.path.realpath(found.archive.path)))
        keys = _select_files(verifier, selection, paths)
        with Bar({os.path.join(*key): bytes_ for key, bytes_ in keys.items()}) as bar:
            for finding in _verify_files(verifier, keys, selection, bar):
                findings.append(finding)
                if not (as_json or (faults_only and finding.state == "ok")):
                    line = visible(_describe(finding))
                    line = short.fit(line, bar.width) if faults_only else line
                    bar.print_line(line, is_fault=finding.is_fault)
    click.echo(_as_json(findings) if as_json else _summarize(findings))
    return EXIT_SOME_FAILED if any(f.is_fault for f in findings) else EXIT_OK


def _select_files(
    verifier: Verifier, selection: _Selection, paths: Sequence[str]
) -> dict[Key, int]:
    """The selected files and their bytes. Raises UsageError if `paths` select none."""
    keys = {key: n for key, n in verifier.files().items() if selection.has_path(os.path.join(*key))}
    if paths and not keys:
        raise UsageError(
            f"lensd has compressed no file at {', '.join(paths)}; `lensd restore --list` shows "
            "the files that it has compressed"
        )
    return keys


def _verify_files(
    verifier: Verifier, keys: Iterable[Key], selection: _Selection, bar: Bar
) -> Iterator[Finding]:
    for key in keys:
        path = os.path.join(*key)
        bar.begin(path)
        yield from verifier.check(key)
        bar.end(path)
    yield from verifier.check_unknown_versions(selection.has_archived)


class _Selection:
    """The files to verify: all of them, or those at or below some paths."""

    def __init__(self, config: Config, paths: Sequence[str]) -> None:
        self._roots = {w.name: w.root for w in config.watch}
        self._paths = [resolve_path(path) for path in paths]

    def has_path(self, full_path: str) -> bool:
        return not self._paths or any(is_below(full_path, path) for path in self._paths)

    def has_archived(self, archived: str) -> bool:
        """`archived`: `<watch name>/<relative path>`, as in the archive."""
        name, _, relative = archived.partition("/")
        root = self._roots.get(name)
        return not self._paths if root is None else self.has_path(os.path.join(root, relative))


def _describe(finding: Finding) -> str:
    message = f": {finding.message}" if finding.message else ""
    where = finding.path or f"of {finding.of}"
    return f"{finding.state:<11} {finding.kind:<8} {where}{message}"


def _as_json(findings: Sequence[Finding]) -> str:
    from lensd.report.documents import Verification
    from lensd.report.json_text import to_json

    document = Verification(
        faults=sum(f.is_fault for f in findings),
        bytes=sum(f.bytes for f in findings),
        files=[
            msgspec.structs.replace(f, path=printable(f.path), of=printable(f.of)) for f in findings
        ],
    )
    return to_json(document, indent=2)


def _summarize(findings: Sequence[Finding]) -> str:
    counts = sorted(Counter((f.kind, f.state) for f in findings).items())
    text = ", ".join(f"{plural(count, kind)} {state}" for (kind, state), count in counts)
    return f"{text or 'no file to verify'}; {size(sum(f.bytes for f in findings))} read"
