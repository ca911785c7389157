"""Whole or not: the rules as a table, and what the probe sees of real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lensd.errors import Failed, Skipped
from lensd.intake.complete import PARTNERS, Facts, Kind, decide, probe
from lensd.store.identity import Identity
from lensd.store.lease import Refusal, block_lease_signal
from tests.support.realistic import small_lora

A = Identity(1, 1, 100, 1, 1)
LINK = Skipped("symlink", "a link")
TRUNCATED, PAGE = Skipped("truncated", "short"), Skipped("not_safetensors", "a web page")
FORBIDDEN = Failed("unreadable", "chmod")


@pytest.mark.parametrize(
    ("facts", "early", "late"),
    [
        (Facts(A), Kind.TAKE, Kind.TAKE),
        (Facts(A, is_output=True), Kind.OWN, Kind.OWN),
        (Facts(A, kind_refusal=LINK), Kind.REFUSE, Kind.REFUSE),
        (Facts(A, kind_refusal=LINK, partner="a.part"), Kind.REFUSE, Kind.REFUSE),
        (Facts(A, partner="a.part"), Kind.WAIT, Kind.WAIT),
        (Facts(A, partner="a.part", refusal=TRUNCATED), Kind.WAIT, Kind.WAIT),
        (Facts(A, lease=Refusal.OPEN_WRITER), Kind.WAIT, Kind.WAIT),
        (Facts(A, lease=Refusal.OPEN_WRITER, refusal=PAGE), Kind.WAIT, Kind.WAIT),
        (Facts(A, lease=Refusal.UNAVAILABLE), Kind.WAIT, Kind.TAKE),
        (Facts(A, lease=Refusal.UNAVAILABLE, is_output=True), Kind.OWN, Kind.OWN),
        (Facts(A, refusal=TRUNCATED), Kind.WAIT, Kind.REFUSE),
        (Facts(A, refusal=Skipped("empty", "no bytes")), Kind.WAIT, Kind.REFUSE),
        (Facts(A, refusal=PAGE), Kind.REFUSE, Kind.REFUSE),
        (Facts(A, refusal=FORBIDDEN), Kind.REFUSE, Kind.REFUSE),
    ],
)
def test_the_rules(facts: Facts, early: Kind, late: Kind) -> None:
    """After the quiet time, and after the longer one without proof."""
    for quiet, kind in ((5.0, early), (60.0, late)):
        verdict = decide(facts, quiet, unproven_seconds=60.0)
        assert kind is verdict.kind
        assert bool(verdict.reason) == (kind is Kind.WAIT)
        assert (verdict.refusal is not None) == (kind is Kind.REFUSE)


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
