"""Demonstrate lensd: a running daemon compresses a 144 MiB LoRA, and `lensd restore` restores it.

Run it from the top of the tree with `make demo`, or `python -m bench.demo [--keep]`. The exit
status is not 0 if lensd breaks any of its promises.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import before_after
from bench.before_after import Facts
from tests.support.realistic import write_lora
from tests.support.running import DaemonError, Line, RunningDaemon

READY_SECONDS = 30.0
COMPRESSED_SECONDS = 300.0  # a file of this size takes a few seconds, but a machine may be busy
RESTORE_SECONDS = 120.0

# The error of a file with 99 % of the energy is the square root of 1 %; int8 adds a little.
LARGEST_ERROR = 0.12


class BrokenPromiseError(Exception):
    """The result is not what lensd or its log line promises."""


class Tree(NamedTuple):
    """The demo's temporary folder."""

    top: Path

    @property
    def downloaded(self) -> Path:
        return self.top / "downloaded" / "subject_v1.safetensors"

    @property
    def loras(self) -> Path:
        return self.top / "loras"

    @property
    def lora(self) -> Path:
        return self.loras / self.downloaded.name

    @property
    def config(self) -> Path:
        return self.top / "config.yaml"

    @property
    def stderr(self) -> Path:
        return self.top / "daemon.stderr"

    def create(self) -> None:
        for folder in (
            self.downloaded.parent,
            self.loras,
            self.top / "archive",
            self.top / "state",
        ):
            folder.mkdir()
        self.config.write_text(self.configuration())

    def configuration(self) -> str:
        # JSON strings are YAML strings, so any temporary path is quoted correctly
        return (
            f"watch:\n  - path: {json.dumps(str(self.loras))}\n"
            "defaults:\n  mode: ultra\n  energy: 0.99\n"
            f"archive:\n  path: {json.dumps(str(self.top / 'archive'))}\n"
            f"state:\n  path: {json.dumps(str(self.top / 'state'))}\n"
            "settle:\n  quiet_seconds: 1\n"
        )


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    tree = Tree(Path(tempfile.mkdtemp(prefix="lensd-demo-")))
    try:
        demonstrate(tree)
    except (BrokenPromiseError, DaemonError, subprocess.TimeoutExpired) as error:
        print(f"\nDEMO FAILED: {error}\nAll files are in {tree.top}", file=sys.stderr)
        return 1
    if options.keep:
        print(f"\nKept: {tree.top}")
    else:
        shutil.rmtree(tree.top)
        print(f"\nRemoved {tree.top} (`make demo ARGS=--keep` keeps it).")
    return 0


def demonstrate(tree: Tree) -> None:
    tree.create()
    print(
        "1. A LoRA like those that people download (Stable Diffusion 1.5, rank 128, float16)\n"
        f"   is written to {tree.top}"
    )
    write_lora(tree.downloaded)
    before = before_after.facts(tree.downloaded)
    with RunningDaemon(tree.config, tree.stderr) as daemon:
        line = drop_and_wait(daemon, tree)
        show(tree, before, line)
        _check("SIGTERM ends the daemon with status 0", holds=daemon.stop() == 0)
    restore(tree, before)


def drop_and_wait(daemon: RunningDaemon, tree: Tree) -> Line:
    """Copy the file into the watched folder and return its `file.compressed` line."""
    daemon.wait_for_event("daemon.ready", READY_SECONDS)
    print(f"2. The daemon is ready; the file is copied to {tree.loras}")
    shutil.copy2(tree.downloaded, tree.lora)
    line = daemon.wait_for(
        lambda line: is_outcome(line, tree.lora), "outcome of the file", COMPRESSED_SECONDS
    )
    if line["event"] != "file.compressed":
        raise BrokenPromiseError(f"the file was not compressed: {json.dumps(line)}")
    return line


def is_outcome(line: Line, path: Path) -> bool:
    """Whether a log line has the outcome of this file."""
    outcomes = {"compressed", "analyzed", "kept", "skipped", "failed", "quarantined"}
    subject, _, event = line["event"].partition(".")
    return subject == "file" and event in outcomes and Path(line["path"]).name == path.name


def show(tree: Tree, before: Facts, line: Line) -> None:
    print("3. The daemon's log line for the file:\n")
    print(pretty(line))
    after = before_after.facts(tree.lora)
    error = before_after.delta_error(tree.downloaded, tree.lora)
    print("\n4. Before and after, read from the files; * marks numbers from the log line\n")
    print(table(before, after, line, error))
    print("\n5. Promises:")
    for holds, promise in promises(tree, before, after, line, error):
        _check(promise, holds=holds)
    print(f"\n   The original is {line['archive_path']}")


def restore(tree: Tree, before: Facts) -> None:
    """Run `lensd restore`, and check the restored file."""
    program = Path(sys.executable).with_name("lensd")
    command = [str(program), "restore", "-c", str(tree.config), str(tree.lora)]
    print(f"\n6. The original is restored:\n\n   {shlex.join(command)}\n")
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RESTORE_SECONDS, check=False
    )
    _check(f"restore ends with status 0 {done.stderr}".rstrip(), holds=done.returncode == 0)
    _check(
        "the original is back, bit for bit", holds=before_after.sha256(tree.lora) == before.sha256
    )
    old, new = tree.downloaded.stat(), tree.lora.stat()
    _check(
        "with its mode and its modification time",
        holds=(old.st_mode, old.st_mtime_ns) == (new.st_mode, new.st_mtime_ns),
    )


def pretty(line: Line) -> str:
    """Return one key per line, with nested objects on the line of their key."""
    return "\n".join(f"   {key + ':':20}{json.dumps(value)}" for key, value in line.items())


def table(before: Facts, after: Facts, line: Line, error: float) -> str:
    """Return rows of name, before and after. `error` is the delta error measured here."""
    energy, seconds = line["energy_retained"], line["seconds"]
    rows = [
        ("", "before", "after"),
        ("bytes", f"{before.size:,}", f"{after.size:,}"),
        ("times smaller", "", f"{before.size / after.size:.1f}"),
        ("modules", f"{len(before.ranks)}", f"{len(after.ranks)}"),
        ("rank: least / median / most", before.rank_range, after.rank_range),
        ("numbers", ", ".join(before.formats), ", ".join(after.formats)),
        ("delta error, measured here", "", f"{error:.4f}"),
        ("delta error *", "", f"{line['delta_error']:.4f}"),
        ("  of the worst module *", "", f"{line['delta_error_max']:.4f}"),
        ("energy kept *", "", f"{energy['overall']:.2%}"),
        ("  by the worst module *", "", f"{energy['min']:.2%}"),
        ("SNR of the quantization *", "", _decibels(line["snr_db"])),
        ("  of the delta weight *", "", _decibels(line["delta_snr_db"])),
        ("seconds, waiting included *", "", f"{seconds['total']:.1f}"),
        ("  of them waiting *", "", f"{seconds['wait']:.1f}"),
    ]
    return "\n".join(f"   {name:30}{old:>18}{new:>18}" for name, old, new in rows)


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"


def promises(
    tree: Tree, before: Facts, after: Facts, line: Line, error: float
) -> Iterator[tuple[bool, str]]:
    """Compare what lensd reports with the files on the disk; yields (whether it holds, promise)."""
    archived = Path(line["archive_path"])
    yield (
        archived.is_file() and before_after.sha256(archived) == before.sha256,
        "the archived original is bit-exact (sha256 compared)",
    )
    yield line["sha256_in"] == before.sha256, "the log names the original's sha256"
    yield line["sha256_out"] == after.sha256, "the log names the result's sha256"
    yield (
        (line["bytes_in"], line["bytes_out"]) == (before.size, after.size),
        "the log names the sizes on disk",
    )
    yield after.size < before.size, "the file is smaller"
    yield (
        after.metadata.get("lensd.original_sha256") == before.sha256,
        "the result's header names the original",
    )
    yield not before_after.not_finite(tree.lora), "the safetensors library loads every tensor"
    yield len(before.ranks) == len(after.ranks), "no module is lost"
    yield (
        all(new <= old for old, new in zip(before.ranks, after.ranks, strict=True)),
        "no rank has grown",
    )
    yield (
        abs(line["delta_error"] - error) <= 0.01 * error,
        "the log's delta error is the one measured on the files",
    )
    yield error <= LARGEST_ERROR, f"the delta error is at most {LARGEST_ERROR}"


def _check(promise: str, *, holds: bool) -> None:
    if not holds:
        raise BrokenPromiseError(f"this is not true: {promise}")
    print(f"   ok  {promise}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="do not remove the temporary folder")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
