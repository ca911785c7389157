"""The manifest, its journal, and the index of what is to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lensd.collection import manifest, rows
from lensd.collection.estimate import Prices, extrapolate, sample_size
from lensd.collection.index import Index, Totals
from lensd.collection.item import Item, Version, is_usable, is_wanted
from lensd.collection.manifest import Journal
from lensd.collection.rows import Head
from lensd.errors import StorageError, UsageError
from tests.support.descriptors import Descriptors


def _row(name: str, **more: Any) -> rows.Row:
    return {
        "timestamp": "2026-01-01T00:00:00.000+00:00",
        "event": "file.compressed",
        "path": f"/source/{name}",
        "outcome": "compressed",
        "settings": "{}",
        "destination": "/dest",
        "source_size": 7,
        "source_mtime": "2026-01-01T00:00:00+00:00",
        "sha256_out": "0" * 64,
        **more,
    }


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    """Rows with fields of all kinds come back from both forms."""
    path = str(tmp_path / name)
    full = _row(
        "a\\ud800",
        rank_in={"min": 1.0, "median": 2.5, "max": 4.0},
        seconds={"read": 0.5, "total": 1.0},
        blocks={"down": [[None, 1, 2, 3]]},
        warnings=[],
        copied=True,
        delta_error=0.25,
    )
    journal = Journal(path, str(tmp_path))
    places = journal.append([full, _row("b")])
    journal.complete(places)
    journal.close()
    assert list(manifest.read(path)) == [full, _row("b")]
    assert [name] == [entry.name for entry in tmp_path.iterdir()]


def test_a_line_that_a_crash_cut_off_is_removed(tmp_path: Path) -> None:
    """What follows is whole; a journal counts for more than the manifest."""
    path = tmp_path / "m.jsonl"
    first = Journal(str(path), str(tmp_path))
    first.append([_row("a"), _row("b")])
    first.close()
    journal = Path(manifest.journal_of(str(path)))
    journal.write_bytes(journal.read_bytes()[:-20])
    path.write_text("")
    second = Journal(str(path), str(tmp_path))
    assert [row for _, row in second.rows()] == [_row("a")]
    second.append([_row("c")])
    second.close()
    assert list(manifest.read(str(path))) == [_row("a"), _row("c")]


@pytest.mark.parametrize(
    "content",
    [
        "no JSON\n",
        "[1]\n",
        "7\n",
        '{"rank": 8}\n',
        '{"rank": 8}',
        "no JSON",
        "[" * 100_000 + "\n",
        json.dumps(_row("\ud800")) + "\n",
    ],
    ids=["text", "list", "number", "object", "one line", "short text", "deep", "no Unicode"],
)
def test_another_file_is_no_manifest(tmp_path: Path, content: str) -> None:
    """It is not read, and not overwritten."""
    path = tmp_path / "m.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match="no manifest"):
        list(manifest.read(str(path)))
    with pytest.raises(UsageError, match="name another file with --manifest"):
        Journal(str(path), str(_folder(tmp_path / "work")))
    assert path.read_text() == content
    assert not Path(manifest.journal_of(str(path))).exists()
    path.rename(tmp_path / "m.parquet")
    with pytest.raises(UsageError, match="no manifest"):
        list(manifest.read(str(tmp_path / "m.parquet")))
    with pytest.raises(StorageError, match="cannot read"):
        list(manifest.read(str(_folder(tmp_path / "folder.jsonl"))))


def test_a_manifest_that_was_cut_off_names_its_line(tmp_path: Path) -> None:
    """A copy of a manifest that was not complete is not read as a shorter one."""
    path = tmp_path / "m.jsonl"
    line = json.dumps(_row("a")) + "\n"
    path.write_text(2 * line + line[:50])
    with pytest.raises(UsageError, match=r"m\.jsonl is no manifest of lensd: line 3: ") as raised:
        list(manifest.read(str(path)))
    assert "line 1" not in str(raised.value)


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    """Its rows may be the only ones, so that it stays; the message says what to do."""
    path = str(tmp_path / "m.jsonl")
    journal = Path(manifest.journal_of(path))
    journal.write_text("damaged\n")
    opened = Journal(path, str(tmp_path))
    with pytest.raises(UsageError, match=r"m\.jsonl\.journal is no manifest.*move it away"):
        list(opened.rows())
    opened.close()
    assert journal.read_text() == "damaged\n"


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_what_is_new_or_changed_is_to_do(tmp_path: Path) -> None:
    """Another size, ETag, DEST or setting, and what failed; without an ETag another time."""
    done = Version(7, None, "2026-01-01T00:00:00+00:00")
    index = Index(str(tmp_path))
    known = [
        _row("same"),
        _row("bigger"),
        _row("later"),
        _row("failed", outcome="failed"),
        _row("elsewhere", destination="/other"),
        _row("mode", settings="{1}"),
        _row("etag", source_etag="e"),
        _row("gone"),
    ]
    index.note((n, msgspec.convert(row, Head)) for n, row in enumerate(known))
    found = {
        "same": done,
        "bigger": Version(8, None, done.mtime),
        "later": Version(7, None, "2026-01-02T00:00:00+00:00"),
        "failed": done,
        "elsewhere": done,
        "mode": done,
        "etag": Version(7, "e", "2027-01-01T00:00:00+00:00"),
        "new": done,
    }
    index.add(
        (f"/source/{name}", rows.mark_of(version, "/dest", "{}"), Item(name, version))
        for name, version in found.items()
    )
    todo = {item.name: known for item, known in index.todo()}
    assert list(todo) == ["bigger", "elsewhere", "later", "mode", "new", "failed"]
    assert todo["new"] is None
    assert todo["bigger"] == "0" * 64
    assert index.left() == Totals(6, 43)
    assert index.found() == Totals(8, 57)
    assert len(index.sample(3)) == 3
    assert [known[place]["path"] for place in index.places()] == sorted(r["path"] for r in known)


def test_what_has_failed_is_tried_last_and_once(tmp_path: Path) -> None:
    """A run that ends after many failures in a row leaves less to the next one."""
    index = Index(str(tmp_path))
    failed = msgspec.convert(_row("a", outcome="failed"), Head)
    index.note([(0, failed)])
    version = Version(7, None, "2026-01-01T00:00:00+00:00")
    index.add(
        (f"/source/{name}", rows.mark_of(version, "/dest", "{}"), Item(name, version))
        for name in "abc"
    )
    tried = []
    for place, (item, _) in enumerate(index.todo(), 1):
        tried.append(item.name)
        row = _row(item.name, outcome="failed")
        index.note([(place, msgspec.convert(row, Head))])
    assert tried == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        ("a.safetensors", True),
        ("a/b c/ü.safetensors", True),
        ("...safetensors", True),
        ("../a", False),
        ("a/../b", False),
        ("a//b", False),
        ("/a", False),
        ("a/", False),
        ("./a", False),
        ("a\0b", False),
        ("a?versionId=b", False),
        ("é" * 128, False),
    ],
)
def test_names_that_can_be_paths(name: str, *, usable: bool) -> None:
    """Below a folder, in every store."""
    assert is_usable(name) == usable


def test_which_objects_are_taken() -> None:
    """By the ending, in any case."""
    assert is_wanted("A.SafeTensors")
    assert not is_wanted("a.safetensors.part")


def test_an_estimate_is_by_bytes() -> None:
    """What is copied counts with its size, and what does not get to DEST with nothing.

    The time is that of the objects that were timed; costs are only known with prices.
    """
    first = [{"source_size": 100, "outcome": "skipped"}]
    timed = [
        {"source_size": 100, "bytes_out": 20, "outcome": "compressed"},
        {"source_size": 100, "outcome": "kept", "copied": True},
        {"source_size": 100, "bytes_out": 99, "outcome": "kept"},
        {"source_size": 100, "outcome": "failed"},
    ]
    found = extrapolate(first, timed, Totals(10, 2000), 6.0)
    assert (found.bytes_in, found.bytes_before, found.bytes_out) == (2000, 800, 480)
    assert (found.sampled, found.seconds) == (5, 30.0)
    assert found.core_hours_per_million(2) == pytest.approx(1e6 * 3 * 2 / 3600)
    assert found.cost_per_million(Prices(), 2) is None
    assert found.cost_per_million(Prices(egress=2.0), 2) == pytest.approx(0.4)
    assert [sample_size(n) for n in (0, 7, 1000, 10_000, 10**7)] == [0, 7, 20, 100, 1000]


def test_a_full_disk_ends_a_run_with_its_own_error(tmp_path: Path) -> None:
    """The end of the run raises no second one, and closes the file."""
    manifest = str(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl.journal").symlink_to("/dev/full")
    descriptors = Descriptors()
    journal = Journal(manifest, str(tmp_path))
    with pytest.raises(StorageError, match="No space left"):
        journal.append([_row("a")])
    journal.close()
    assert [] == descriptors.opened()
