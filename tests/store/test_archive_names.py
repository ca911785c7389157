"""Originals whose names the archive's disk cannot have, or takes for equal, are all kept apart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensd.store.archive import Archive, naming
from tests.store.test_archive import all_files, keep, sha, write
from tests.support.archive_disks import ArchiveMounts

NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda raw: b"/" not in raw and b"\0" not in raw and raw not in (b".", b"..")
)
# Names that some disk refuses, and names that differ in case only.
ODD = (
    "a:b.safetensors", "what?.safetensors", "dot./x.safetensors", "end .safetensors", "con/aux",
    os.fsdecode(b"caf\xe9.safetensors"), "tab\t.safetensors", "line\n.safetensors",
    "Ä" * 100 + ":", "x" * 255, "%~ink.safetensors", "100%.safetensors", "%69nk.safetensors",
    "Ink.safetensors", "ink.safetensors", "INK.safetensors", "Ä.safetensors", "ä.safetensors",
    "Sub/a.safetensors", "sub/a.safetensors", "sub/A.safetensors",
)  # fmt: skip


@given(NAMES)
def test_each_name_can_be_written_and_read_again(raw: bytes) -> None:
    """Only with what every disk permits, and in parts that are short enough."""
    name = os.fsdecode(raw)
    written = naming.encode(name)
    assert naming.decode(f"loras/{written}/x") == f"loras/{name}/x"
    for part in written.split("/"):
        assert len(part) <= 130
        assert part == part.lower()
        assert part.isascii()
        assert naming._REFUSED.search(part) is None
        assert naming._DEVICES.match(part) is None


@given(NAMES, NAMES)
def test_no_two_names_are_written_alike(a: bytes, b: bytes) -> None:
    """Nor alike but for case."""
    one, two = naming.encode(os.fsdecode(a)), naming.encode(os.fsdecode(b))
    assert (one.casefold() == two.casefold()) == (a == b)


@given(st.text(min_size=1).filter(lambda text: "%" not in text and "\0" not in text))
def test_other_names_are_not_decoded(path: str) -> None:
    """An archive of an older lensd has no encoded names."""
    assert naming.decode(path) == path


@pytest.fixture(params=["ext4", "exfat", "windows"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    with ArchiveMounts() as mounts:
        disk = tmp_path / "archive"
        match request.param:
            case "ext4":
                disk.mkdir()
            case "exfat":
                mounts.exfat(disk)
            case "windows":
                mounts.windows(disk)
        yield Archive(str(disk))


@pytest.mark.slow
@pytest.mark.fault("names")
def test_every_original_has_its_own_name(archive: Archive, tmp_path: Path) -> None:
    """Two of each: the older one moves aside. All are found by their names and their hashes."""
    source = tmp_path / "x"
    kept: dict[str, str] = {}
    for round_ in ("one", "two"):
        for name in ODD:
            path = keep(archive, write(source, os.fsencode(round_ + name)), name=name).path
            assert kept.setdefault(name, path) == path
    assert len(set(kept.values())) == len(ODD)
    for name in ODD:
        older, newest = (sha(os.fsencode(round_ + name)) for round_ in ("one", "two"))
        assert archive.originals.find("loras", name) == kept[name]
        assert archive.originals.has(kept[name])
        assert archive.originals.locate("loras", name, newest) == kept[name]
        inside = kept[name].removeprefix(f"{archive.root}/")
        aside = f"{archive.root}/.versions/{older}/{inside}"  # as the ledger expects
        assert archive.originals.locate("loras", name, older) == aside
        assert [older] == [sha256 for sha256, _ in archive.originals.versions("loras", name)]
    assert {name for _, name in archive.originals.listed("loras")} == set(ODD)
    for name in ODD:  # a rebuild asks one folder for many names
        folder, _, last = name.rpartition("/")
        with archive.originals.open_mirror("loras", f"{folder}/" if folder else "") as mirror:
            found = mirror.find(last)
            assert found is not None
            assert (found.path, found.stat) == (kept[name], os.lstat(kept[name]))
            assert mirror.find("missing.safetensors") is None
    plain = Path(archive.root).stat().st_dev == tmp_path.stat().st_dev
    if plain:  # all but the one that reads as encoded have their own names
        assert [n for n in ODD if kept[n] != f"{archive.root}/loras/{n}"] == ["%~ink.safetensors"]
    for path in kept.values():
        archive.remover.remove(path)
    assert archive.originals.find("loras", "ink.safetensors") is None
    assert not [name for name in all_files(Path(archive.root, "loras")) if name]
