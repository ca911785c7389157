"""Whole or not: the rules as a table, and what the probe sees of real files."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from lensd.errors import Failed, Skipped, Unfinished
from lensd.store.header import encode_header
from lensd.store.identity import Identity
from lensd.store.lease import Refusal, block_lease_signal
from lensd.watcher.completeness import PARTNERS, TAIL_BYTES, Facts, Kind, decide, probe
from tests.support.realistic import small_lora

QUIET, UNPROVEN = 5.0, 60.0
A = Identity(1, 1, 100, 1, 1)
LINK = Skipped("symlink", "a link")
TRUNCATED, PAGE = Unfinished("truncated", "short"), Skipped("not_safetensors", "a web page")
BEYOND = Unfinished("bad_header", "bytes beyond the last tensor")
FORBIDDEN = Failed("unreadable", "chmod")
OPEN, NO_LEASE = Refusal.OPEN_WRITER, Refusal.UNAVAILABLE


@pytest.mark.parametrize(
    ("facts", "soon", "early", "late"),
    [
        (Facts(A), Kind.WAIT, Kind.TAKE, Kind.TAKE),
        (Facts(A, is_output=True), Kind.OWN, Kind.OWN, Kind.OWN),
        (Facts(A, kind_refusal=LINK), Kind.REFUSE, Kind.REFUSE, Kind.REFUSE),
        (Facts(A, kind_refusal=LINK, partner="a.part"), Kind.REFUSE, Kind.REFUSE, Kind.REFUSE),
        (Facts(A, partner="a.part"), Kind.WAIT, Kind.WAIT, Kind.WAIT),
        (Facts(A, partner="a.part", refusal=TRUNCATED), Kind.WAIT, Kind.WAIT, Kind.WAIT),
        (Facts(A, lease=OPEN), Kind.WAIT, Kind.WAIT, Kind.WAIT),
        (Facts(A, lease=OPEN, refusal=PAGE), Kind.WAIT, Kind.WAIT, Kind.WAIT),
        (Facts(A, lease=NO_LEASE), Kind.WAIT, Kind.WAIT, Kind.TAKE),
        (Facts(A, lease=NO_LEASE, is_output=True), Kind.OWN, Kind.OWN, Kind.OWN),
        (Facts(A, lease=NO_LEASE, refusal=TRUNCATED), Kind.WAIT, Kind.WAIT, Kind.WAIT),
        (Facts(A, refusal=TRUNCATED), Kind.WAIT, Kind.WAIT, Kind.WAIT),
        (Facts(A, refusal=BEYOND), Kind.WAIT, Kind.WAIT, Kind.WAIT),
        (Facts(A, refusal=Unfinished("empty", "no bytes")), Kind.WAIT, Kind.WAIT, Kind.WAIT),
        (Facts(A, refusal=PAGE), Kind.REFUSE, Kind.REFUSE, Kind.REFUSE),
        (Facts(A, refusal=FORBIDDEN), Kind.REFUSE, Kind.REFUSE, Kind.REFUSE),
        (Facts(A, holes=True), Kind.WAIT, Kind.WAIT, Kind.TAKE),
        (Facts(A, zero_tail=True), Kind.WAIT, Kind.WAIT, Kind.TAKE),
        (Facts(A, holes=True, zero_tail=True, lease=NO_LEASE), Kind.WAIT, Kind.WAIT, Kind.TAKE),
        (Facts(A, holes=True, is_output=True), Kind.OWN, Kind.OWN, Kind.OWN),
        (Facts(A, holes=True, partner="a.part"), Kind.WAIT, Kind.WAIT, Kind.WAIT),
    ],
)
def test_the_rules(facts: Facts, soon: Kind, early: Kind, late: Kind) -> None:
    """Before the quiet time, after it, and after the longer one without proof."""
    for quiet, kind in ((QUIET - 0.1, soon), (QUIET, early), (UNPROVEN, late)):
        verdict = decide(facts, quiet, QUIET, UNPROVEN)
        assert kind is verdict.kind
        assert bool(verdict.reason) == (kind is Kind.WAIT)
        is_told = isinstance(facts.refusal, Unfinished) and quiet >= UNPROVEN
        is_told = is_told and not verdict.busy
        assert (verdict.refusal is not None) == (kind is Kind.REFUSE or is_told)


@pytest.mark.parametrize(
    ("facts", "busy", "unproven", "says"),
    [
        (Facts(A), False, True, "until just now"),
        (Facts(A, partner="a.part"), True, False, "a.part"),
        (Facts(A, lease=OPEN), True, False, "open for writing"),
        (Facts(A, refusal=TRUNCATED), False, False, "not whole: short"),
        (Facts(A, lease=NO_LEASE), False, True, "after 60 s"),
        (Facts(A, holes=True), False, True, "holes"),
        (Facts(A, zero_tail=True), False, True, "zero bytes"),
    ],
)
def test_the_reasons_to_wait(facts: Facts, *, busy: bool, unproven: bool, says: str) -> None:
    """Which of them begin the quiet time anew, and which pass by time alone."""
    verdict = decide(facts, 0.0, QUIET, UNPROVEN)
    assert (verdict.busy, verdict.unproven) == (busy, unproven)
    assert says in verdict.reason


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    block_lease_signal()
    return small_lora(tmp_path / "style.safetensors").path


def _probe(path: Path, own_inode: int | None = None) -> Facts:
    folder_fd = os.open(path.parent, os.O_RDONLY)
    try:
        return probe(folder_fd, path.name, own_inode)
    finally:
        os.close(folder_fd)


def test_a_whole_file(lora: Path) -> None:
    """Nothing speaks against it, and looking at it changes nothing."""
    before = lora.stat()
    facts = _probe(lora)
    assert facts == Facts(Identity.of(before))
    assert before.st_atime_ns == lora.stat().st_atime_ns or before.st_size == lora.stat().st_size


@pytest.mark.parametrize("suffix", PARTNERS)
def test_every_partner_is_seen(lora: Path, suffix: str) -> None:
    """Also one that is a dangling link."""
    Path(f"{lora}{suffix}").symlink_to("nowhere")
    assert _probe(lora).partner == lora.name + suffix


def test_an_open_writer_is_seen(lora: Path) -> None:
    """By the lease that the kernel then refuses; a reader is no obstacle."""
    with lora.open("r+b"):
        assert _probe(lora).lease is Refusal.OPEN_WRITER
    with lora.open("rb"):
        assert _probe(lora).lease is None


def test_links_are_told_apart(lora: Path) -> None:
    """A second name refuses it, unless that is lensd's own in the archive."""
    os.link(lora, lora.with_name("other"))
    refusal = _probe(lora).kind_refusal
    assert refusal is not None
    assert refusal.reason == "hardlinked"
    assert _probe(lora, own_inode=lora.stat().st_ino).kind_refusal is None
    os.link(lora, lora.with_name("third"))
    assert _probe(lora, own_inode=lora.stat().st_ino).kind_refusal is not None


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe and a dangling link; opening the pipe would hang."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("nowhere")
    reasons = [r.reason for p in (pipe, link) if (r := _probe(p).kind_refusal)]
    assert reasons == ["not_regular", "symlink"]
    with pytest.raises(FileNotFoundError):
        _probe(tmp_path / "nothing")


def test_what_is_written_has_no_holes(lora: Path) -> None:
    """Nor before it is on the disk, nor on it."""
    with lora.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(4000) + b"x" * 96)
    assert not _probe(lora).holes
    os.sync()
    assert not _probe(lora).holes


@pytest.mark.parametrize("how", ["truncate", "fallocate"])
def test_what_was_never_written_is_a_hole(lora: Path, how: str) -> None:
    """In the middle of a file whose header and end are there: a download in several pieces."""
    data = lora.read_bytes()
    with lora.open("wb") as file:
        if how == "fallocate":
            os.posix_fallocate(file.fileno(), 0, len(data))
        else:
            file.truncate(len(data))
        os.pwrite(file.fileno(), data[: len(data) // 3], 0)
        os.pwrite(file.fileno(), data[-4096:], len(data) - 4096)
    facts = _probe(lora)
    if not facts.holes:
        pytest.skip("this filesystem does not tell holes")
    assert (facts.refusal, facts.zero_tail) == (None, False)


@pytest.mark.parametrize("missing", [TAIL_BYTES, 100, 5000])
def test_an_end_of_zeros_is_seen(lora: Path, missing: int) -> None:
    """However little of it is missing, and whatever the filesystem says of holes."""
    data = lora.read_bytes()
    lora.write_bytes(data[:-missing] + bytes(missing))
    facts = _probe(lora)
    assert facts.zero_tail
    assert facts.refusal is None


def test_only_the_end_is_read(lora: Path) -> None:
    """Not the whole file at each look: of a file of 4 GB the probe reads some kilobytes."""
    big = lora.with_name("big.safetensors")
    size = 4 * 10**9
    header = encode_header([("a.lora_down.weight", "U8", (size,))], {})
    with big.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
    before = _bytes_read()
    facts = _probe(big)
    assert (facts.holes, facts.zero_tail) == (True, True)
    assert _bytes_read() - before < 100_000


def _bytes_read() -> int:
    text = Path("/proc/self/io").read_text()
    return int(text.split("rchar:")[1].split()[0])


def test_a_mapping_is_a_writer_too(lora: Path) -> None:
    """Also after its descriptor is closed; a lease is granted when it is unmapped."""
    with lora.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    assert _probe(lora).lease is Refusal.OPEN_WRITER
    mapped.close()
    assert _probe(lora).lease is None


def test_a_file_under_a_partner_is_not_opened(lora: Path) -> None:
    """A lease, however short, could be in the way of the program that downloads."""
    Path(f"{lora}.aria2").touch()
    lora.chmod(0)
    facts = _probe(lora)
    assert (facts.partner, facts.refusal) == (f"{lora.name}.aria2", None)
