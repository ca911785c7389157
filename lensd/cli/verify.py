"""`lensd verify`: archive and published files are read again and compared with the ledger."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING

import click
import msgspec

from lensd import __version__
from lensd.cli.options import LORA_OR_FOLDER, config_option, load_config
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError
from lensd.text import printable, size, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lensd.cli.views.progress import Bar
    from lensd.config.model import Config
    from lensd.jobs.verify import Finding, Key, Verifier


@click.command()
@config_option
@click.argument("paths", nargs=-1, type=LORA_OR_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def verify(config: str | None, paths: tuple[str, ...], *, as_json: bool) -> int:
    """Read every original and every compressed file again, and tell what is damaged or missing.

    PATHS are files or folders in the watched folders; without them all are read. Works with and
    without a running daemon, and changes nothing. Exit code 1: something is damaged, missing or
    unreadable. A file that somebody replaced or deleted is told, and is no fault.

    \b
    lensd verify                      all; what is ok has no line at a terminal
    lensd verify | less               a line for every file
    lensd verify /srv/loras/style     one folder
    """
    from lensd.cli.views.progress import Bar
    from lensd.cli.views.terminal import is_for_people
    from lensd.jobs.verify import Verifier
    from lensd.store.archive import Archive
    from lensd.store.ledger import Ledger

    found = load_config(config)
    wanted = _Wanted(found, paths)
    briefly = is_for_people()
    findings = []
    ledger = Ledger(found.state.path, __version__, readonly=True)
    try:
        verifier = Verifier(ledger, Archive(os.path.realpath(found.archive.path)))
        keys = _keys(verifier, wanted, paths)
        with Bar({os.path.join(*key): bytes_ for key, bytes_ in keys.items()}) as bar:
            for finding in _findings(verifier, keys, wanted, bar):
                findings.append(finding)
                if not (as_json or (briefly and finding.state == "ok")):
                    bar.line(visible(_line(finding)), is_fault=finding.is_fault)
    finally:
        ledger.close()
    click.echo(_as_json(findings) if as_json else _summary(findings))
    return EXIT_SOME_FAILED if any(f.is_fault for f in findings) else EXIT_OK


def _keys(verifier: Verifier, wanted: _Wanted, paths: Sequence[str]) -> dict[Key, int]:
    """The files that were asked for, and their bytes. Raises UsageError where there are none."""
    keys = {key: n for key, n in verifier.files().items() if wanted.path(os.path.join(*key))}
    if paths and not keys:
        raise UsageError(
            f"lensd has compressed nothing at {', '.join(paths)}; `lensd restore --list` shows "
            "what it has"
        )
    return keys


def _findings(
    verifier: Verifier, keys: Iterable[Key], wanted: _Wanted, bar: Bar
) -> Iterator[Finding]:
    for key in keys:
        path = os.path.join(*key)
        bar.begin(path)
        yield from verifier.check(key)
        bar.end(path)
    yield from verifier.check_unknown_versions(wanted.inside)


class _Wanted:
    """Which files were asked for: all, or those at or below some paths."""

    def __init__(self, config: Config, paths: Sequence[str]) -> None:
        self._roots = {w.name: w.root for w in config.watch}
        self._paths = [_resolved(path) for path in paths]

    def path(self, full: str) -> bool:
        return not self._paths or any(
            full == path or full.startswith(f"{path}/") for path in self._paths
        )

    def inside(self, place: str) -> bool:
        """Of a place in the archive, `<watch name>/<relative path>`."""
        name, _, relative = place.partition("/")
        root = self._roots.get(name)
        return not self._paths if root is None else self.path(os.path.join(root, relative))


def _resolved(path: str) -> str:
    """As the ledger has it. The last part may be gone, or a link that was put there."""
    folder, name = os.path.split(os.path.abspath(path))
    place = os.path.join(os.path.realpath(folder), name)
    return os.path.realpath(place) if os.path.isdir(place) else place


def _line(finding: Finding) -> str:
    message = f": {finding.message}" if finding.message else ""
    where = finding.path or f"of {finding.of}"
    return f"{finding.state:<11} {finding.kind:<8} {where}{message}"


def _as_json(findings: Sequence[Finding]) -> str:
    from lensd.report.documents import Verification

    document = Verification(
        faults=sum(f.is_fault for f in findings),
        bytes=sum(f.bytes for f in findings),
        files=[
            msgspec.structs.replace(f, path=printable(f.path), of=printable(f.of)) for f in findings
        ],
    )
    return json.dumps(msgspec.to_builtins(document), indent=2)


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(f"{f.kind} {f.state}" for f in findings)
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    return f"{told or 'nothing to read'}; {size(sum(f.bytes for f in findings))} read"
