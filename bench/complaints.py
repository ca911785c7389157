"""Run the tests of the complaints about lensd's first minutes on the lensd from before.

    python -m bench.complaints              all of them
    python -m bench.complaints status plan  those whose complaint or test contains a word

The table of docs/decisions/0050-each-complaint-has-a-test.md names a test for each complaint. The
tests of this tree run in a temporary tree whose lensd, documents and units are those of BEFORE.
Prints how each one ends there, and exits with 1 if one passes or does not run.
"""

from __future__ import annotations

import io
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

BEFORE = "abc0de4"  # the last commit before the complaints
TOP = Path(__file__).parents[1]
TABLE = TOP / "docs/decisions/0050-each-complaint-has-a-test.md"
NOW = ("tests", "bench")  # folders of today; all others are from before
WIDTH = 160  # characters of an error
PATIENCE = "PATIENCE = 40.0"  # seconds: most tests wait for what the old lensd never does


def complaints() -> Iterator[tuple[str, str]]:
    """Yield each complaint of TABLE with the id of each of its tests."""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if "::" in line:
            complaint, tests = line.strip("| ").rsplit(" | ", 1)
            yield from ((complaint, test) for test in re.findall(r"`([^`]+::\w+)`", tests))


def main(words: Sequence[str]) -> int:
    """Return the exit code."""
    wanted = [
        row for row in complaints() if not words or any(word in "".join(row) for word in words)
    ]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        _extract(BEFORE, tree)
        python = _make_python(tree, Path(folder, "venv"))
        ends = [_show_end(complaint, test, python, tree) for complaint, test in wanted]
    print(f"{sum(ends)} of {len(ends)} tests fail on {BEFORE}")
    return not all(ends)


def _show_end(complaint: str, test: str, python: Path, tree: Path) -> bool:
    """Print how a test ends; return whether it fails."""
    end = _end_of(test, python, tree)
    print(f"{complaint}\n    {test}\n    {end}", flush=True)
    return end.startswith("fails")


def _extract(commit: str, tree: Path) -> None:
    """The tree of the commit, with the folders NOW of the working tree."""
    archive = subprocess.run(["git", "archive", commit], cwd=TOP, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(tree, filter="data")
    for name in NOW:
        shutil.rmtree(tree / name)
        shutil.copytree(TOP / name, tree / name)
    limits = tree / "tests/support/limits.py"
    limits.write_text(re.sub("^PATIENCE = .*", PATIENCE, limits.read_text(), flags=re.MULTILINE))


def _make_python(tree: Path, folder: Path) -> Path:
    """An interpreter with the packages of this one, for which `lensd` is that of the tree."""
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    paths = [str(tree), *site.getsitepackages(), *sys.path[1:]]
    packages.joinpath("tree.pth").write_text("\n".join(dict.fromkeys(paths)))
    script = folder / "bin/lensd"
    script.write_text(f"#!{folder}/bin/python\nfrom lensd.__main__ import main\nmain()\n")
    script.chmod(0o755)
    return folder / "bin/python"


def _end_of(test: str, python: Path, tree: Path) -> str:
    """`passes`, `is skipped`, or `fails:` with its error."""
    command = [str(python), "-m", "pytest", "-x", "-q", "-rs", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=tree, check=False, capture_output=True, text=True)
    if done.returncode == 0:
        return "passes" if " passed" in done.stdout else "is skipped"
    errors = re.findall(r"^E +(\S.*)", done.stdout, re.MULTILINE)
    return f"fails: {errors[0] if errors else done.stdout.strip()}"[:WIDTH]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
