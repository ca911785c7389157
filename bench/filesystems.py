"""What each filesystem that this machine can mount is proven to do: a table of docs/operations.md.

Run it as root from the top of the tree with `python -m bench.filesystems`. It mounts each kind in
a temporary folder, lets `lensd.store.probe` try it, and drops the kernel's caches between two looks
at an inode (which a running lensd does not do).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import _pytest.outcomes

from lensd.store.probe import Proof, prove
from tests.support.disks import Mounts
from tests.support.filesystems import KINDS, mount

COLUMNS = {
    "exchange of names": "exchange",
    "it sets the ctime": "exchange_sets_ctime",
    "rename without replacement": "rename_noreplace",
    "hard links": "hard_links",
    "fsync of a folder": "folder_fsync",
    "case-sensitive": "case_sensitive",
    "stable inodes": "stable_inodes",
    "inodes of more than 32 bits": "wide_inodes",
    "grants leases": "grants_leases",
    "leases prove something": "enforces_leases",
}
UNITS = ((10**9, "s"), (10**6, "ms"), (10**3, "µs"), (1, "ns"))


def main() -> int:
    for line in table(list(proofs())):
        print(line)
    return 0


def proofs() -> Iterator[tuple[str, Proof | str]]:
    """Each kind with its proof, or why it cannot be mounted here."""
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as top, Mounts() as mounts:
            try:
                folder = mount(mounts, kind, Path(top)).folder
                yield kind, _prove(folder)
            except (_pytest.outcomes.Skipped, OSError, subprocess.CalledProcessError) as error:
                yield kind, str(error)


def table(found: list[tuple[str, Proof | str]]) -> Iterator[str]:
    """One column per filesystem."""
    proven = [(kind, proof) for kind, proof in found if isinstance(proof, Proof)]
    yield f"| | {' | '.join(kind for kind, _ in proven)} |"
    yield "|---" * (len(proven) + 1) + "|"
    for title, name in COLUMNS.items():
        yield f"| {title} | {' | '.join(_cell(getattr(proof, name)) for _, proof in proven)} |"
    yield f"| resolution of the ctime | {' | '.join(_time(p) for _, p in proven)} |"
    yield f"| way of a commit | {' | '.join(f'`{p.way}`' for _, p in proven)} |"
    yield ""
    yield f"Linux {os.uname().release}."
    for kind, why in found:
        if isinstance(why, str):
            yield f"Not mounted: {kind} ({why})."


def _prove(folder: Path) -> Proof:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return prove(fd, between=_drop_caches)
    finally:
        os.close(fd)


def _drop_caches() -> None:
    """Let the kernel forget names and inodes that nobody has open."""
    Path("/proc/sys/vm/drop_caches").write_text("2\n", encoding="ascii")


def _cell(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, "-")  # type: ignore[call-overload]


def _time(proof: Proof) -> str:
    resolution = proof.ctime_resolution_ns or 0
    size, unit = next(u for u in UNITS if resolution >= u[0])
    return f"{resolution // size} {unit}"


if __name__ == "__main__":
    sys.exit(main())
