"""The main job: a file that is dropped into a watched folder, in each mode."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lensd.store.ledger import Ledger
from tests.support import delta
from tests.support.home_server import HomeServer, Seen, wait_until
from tests.support.marks import needs_root
from tests.support.running import Line, RunningDaemon

FOLDERS: dict[str, dict[str, Any]] = {
    "ultra": {},
    "rank": {"mode": "rank"},
    "int8": {"mode": "int8"},
    "analyze": {"mode": "analyze"},
    "strict": {"max_error": 0.001},
    "greedy": {"min_saving": 0.95},
    "flat": {"recursive": False},
    "dated": {"preserve_mtime": False},
}


class Scene:
    """A daemon that watches one folder per setting."""

    def __init__(self, server: HomeServer, daemon: RunningDaemon) -> None:
        self.server = server
        self.daemon = daemon

    def compress(self, relative: str, **of_file: Any) -> tuple[Path, Path, Line]:
        """Drop a file; returns its name, its archived original and its last line."""
        made = self.server.drop(relative, **of_file)
        line = self.daemon.wait_for_file(made.path)
        return made.path, self.server.archive / relative, line


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    server = HomeServer(tmp_path_factory.mktemp("server"))
    watch = []
    for name, settings in FOLDERS.items():
        (server.loras / name).mkdir()
        watch.append({"path": str(server.loras / name), **settings})
    server.configure(watch=watch, defaults={"mode": "ultra"})
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        yield Scene(server, daemon)
        assert daemon.stop() == 0
    assert [] == server.temporaries()


def test_a_dropped_file_is_detected_settled_and_compressed(scene: Scene) -> None:
    """Three lines, one job. The output is smaller and marked, the archived original bit-exact."""
    made = scene.server.make("style.safetensors", seed=1)
    before = Seen.of(made.path)
    path = scene.server.move_in(made.path, "ultra/style.safetensors")
    line = scene.daemon.wait_for_file(path)
    assert ["file.detected", "file.settled", "file.compressed"] == scene.daemon.of(path)
    archived = scene.server.archive / "ultra" / path.name
    after = Seen.of(path)
    assert before.sha256 == Seen.of(archived).sha256 == line["sha256_in"]
    assert after.sha256 == line["sha256_out"]
    assert (before.size, after.size) == (line["bytes_in"], line["bytes_out"])
    assert after.size < before.size / 2
    with safe_open(path, "pt") as file:
        marks = file.metadata()
    assert marks["lensd.original_sha256"] == before.sha256
    assert marks["lensd.original_bytes"] == str(before.size)
    assert marks["lensd.original_name"] == "style.safetensors"
    assert marks["lensd.mode"] == "ultra"
    assert marks["ss_tag_frequency"]
    assert str(archived) == line["archive_path"]
    assert (line["watch"], line["mode"], line["naming"]) == ("ultra", "ultra", "kohya")
    assert line["ratio"] == pytest.approx(before.size / after.size, rel=1e-3)


def test_auto_v3_follows_the_job(scene: Scene) -> None:
    """The ledger gets it while the daemon has no job: the hash that the trainer computed."""
    path = scene.server.drop("ultra/hashed.safetensors", seed=8).path
    line = scene.daemon.wait_for_file(path, "file.compressed")
    assert "data_sha256_in" not in line

    def kept() -> object:
        with Ledger.read_only(str(scene.server.state)) as ledger:
            entry = ledger.files.find(str(path.parent), path.name)
            return entry and entry.line and entry.line.get("data_sha256_in")

    wait_until(lambda: kept() is not None, "the hash is in the ledger")
    with safe_open(path, "pt") as file:
        assert kept() == file.metadata()["sshs_model_hash"]


@pytest.mark.parametrize(
    ("mode", "naming"),
    [("ultra", "kohya"), ("rank", "kohya"), ("int8", "kohya"), ("ultra", "peft"), ("rank", "peft")],
)
def test_the_numbers_are_those_of_the_two_files(scene: Scene, naming: str, mode: str) -> None:
    """Delta error, energy, ranks and the delta's SNR agree with float64 matrices of the files."""
    original = scene.server.drop(f"{mode}/{naming}.safetensors", naming=naming, seed=2)
    line = scene.daemon.wait_for_file(original.path, "file.compressed")
    before, after = original.deltas, delta.deltas(original.path)
    error = delta.relative_error(before, after)
    assert line["delta_error"] == pytest.approx(error, rel=1e-3)
    worst = max(delta.relative_error({n: before[n]}, {n: after[n]}) for n in before)
    assert line["delta_error_max"] == pytest.approx(worst, rel=1e-3)
    ranks = delta.ranks(original.path)
    assert line["modules"] == len(before) == len(ranks)
    assert (line["rank_in"]["min"], line["rank_in"]["max"]) == (16, 16)
    assert line["rank_out"] == {
        "min": ranks[0], "median": statistics.median(ranks), "max": ranks[-1],
    }  # fmt: skip
    kept = {n: delta.truncated(d, torch.linalg.matrix_rank(after[n])) for n, d in before.items()}
    lost = delta.relative_error(before, kept) ** 2
    assert line["energy_retained"]["overall"] == pytest.approx(1 - lost, abs=1e-4)
    least = min(1 - delta.relative_error({n: before[n]}, {n: kept[n]}) ** 2 for n in before)
    assert line["energy_retained"]["min"] == pytest.approx(least, abs=1e-4)
    if line["encodings"]["int8"] + line["encodings"]["float8"] == 0:
        assert mode == "rank" or line["forced_by"]
        assert [line[k] for k in ("snr_db", "mse", "mae", "delta_snr_db")] == [None] * 4
        return
    noise = delta.relative_error(kept, after)
    assert line["delta_snr_db"] == pytest.approx(-20 * math.log10(noise), abs=0.1)
    assert line["snr_db"] > 30
    assert 0 < line["mae"] <= math.sqrt(line["mse"])


@pytest.mark.parametrize(
    ("mode", "dtypes"), [("ultra", {"I8"}), ("int8", {"I8"}), ("rank", {"F16"})]
)
def test_each_mode_stores_its_numbers_its_way(scene: Scene, mode: str, dtypes: set[str]) -> None:
    """Int8 and Ultra give I8 factors, Rank the native precision; Int8 keeps the ranks."""
    path, archived, line = scene.compress(f"{mode}/stored.safetensors", seed=3)
    with safe_open(path, "pt") as file:
        factors = [k for k in file.keys() if k.endswith(".weight")]  # noqa: SIM118  not a dict
        assert dtypes == {file.get_slice(k).get_dtype() for k in factors}
    assert line["dtype_out"] in dtypes
    assert (delta.ranks(path) == delta.ranks(archived)) == (mode == "int8")


def test_analyze_measures_and_changes_nothing(scene: Scene) -> None:
    """The file is as it was, nothing is archived, and each predicted size is the real one."""
    made = scene.server.make("measured.safetensors", seed=2, naming="kohya")
    before = Seen.of(made.path)
    path = scene.server.move_in(made.path, "analyze/measured.safetensors")
    line = scene.daemon.wait_for_file(path, "file.analyzed")
    assert before == Seen.of(path)
    assert not (scene.server.archive / "analyze").exists()
    real = {}
    for mode in ("rank", "int8", "ultra"):
        # names and settings are part of the header, so this holds for equal names only
        output, _, _ = scene.compress(f"{mode}/measured.safetensors", seed=2)
        real[mode] = output.stat().st_size
    assert real == line["predicted"]


def test_mode_owner_time_and_attributes_are_kept(scene: Scene) -> None:
    """The output is to programs the same file: rights, owner, mtime and user.* attributes."""
    made = scene.server.make("dressed.safetensors", seed=4)
    made.path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(made.path, 1234, 2345)
    os.setxattr(made.path, "user.note", b"bought")
    os.utime(made.path, ns=(10**18, 1_600_000_000_123_456_789))
    before = Seen.of(made.path)
    path = scene.server.move_in(made.path, "ultra/dressed.safetensors")
    scene.daemon.wait_for_file(path, "file.compressed")
    after = Seen.of(path)
    assert (before.mode, before.owner, before.mtime_ns) == (
        after.mode, after.owner, after.mtime_ns,
    )  # fmt: skip
    assert os.getxattr(path, "user.note") == b"bought"
    assert before._replace(inode=0) == Seen.of(scene.server.archive / "ultra" / path.name)._replace(
        inode=0
    )


def test_the_time_may_be_new_when_that_is_asked_for(scene: Scene) -> None:
    """`preserve_mtime: false`, in a folder of its own."""
    made = scene.server.make("dated.safetensors", seed=4)
    os.utime(made.path, (1e9, 1e9))
    path = scene.server.move_in(made.path, "dated/dated.safetensors")
    scene.daemon.wait_for_file(path, "file.compressed")
    assert path.stat().st_mtime > 1e9 + 1


def test_folders_inside_are_watched(scene: Scene) -> None:
    """Also one that is made together with its file; the archive has the same layout."""
    path, archived, line = scene.compress("ultra/a/b c/deep.safetensors", seed=5)
    assert line["event"] == "file.compressed"
    assert archived.is_file()
    assert path.stat().st_size == line["bytes_out"]


def test_a_folder_that_is_not_recursive_stays_at_its_top(scene: Scene) -> None:
    """`recursive: false`: the file below is left alone, the one beside is compressed."""
    below = scene.server.drop("flat/below/style.safetensors", seed=6)
    before = Seen.of(below.path)
    _, _, line = scene.compress("flat/top.safetensors", seed=6)
    assert line["event"] == "file.compressed"
    assert before == Seen.of(below.path)
    assert [] == scene.daemon.of(below.path)


def test_a_moved_in_folder_is_seen_with_all_in_it(scene: Scene) -> None:
    """`mv folder /srv/loras` is one event for several files."""
    names = [f"{n}.safetensors" for n in range(3)]
    folder = scene.server.elsewhere / "set"
    (folder / "inner").mkdir(parents=True)
    for seed, name in enumerate(names):
        made = scene.server.make(name, seed=seed)
        made.path.rename(folder / "inner" / name)
    folder.rename(scene.server.loras / "ultra" / "set")
    inner = scene.server.loras / "ultra" / "set" / "inner"
    scene.daemon.wait_for_files([inner / name for name in names], "file.compressed")


def test_no_gain_keeps_the_original(scene: Scene) -> None:
    """A rank-1 file in mode rank: nothing to be saved, one `file.kept`, the file untouched."""
    made = scene.server.make("small.safetensors", rank=1, alpha=1.0, seed=7)
    before = Seen.of(made.path)
    path = scene.server.move_in(made.path, "rank/small.safetensors")
    line = scene.daemon.wait_for_file(path)
    assert ("file.kept", "no_gain") == (line["event"], line["reason"])
    assert "min_saving" in line["message"]
    assert before == Seen.of(path)
    assert not (scene.server.archive / "rank" / path.name).exists()


@pytest.mark.parametrize(("folder", "reason"), [("strict", "max_error"), ("greedy", "no_gain")])
def test_a_folders_own_limits_hold(scene: Scene, folder: str, reason: str) -> None:
    """`max_error` and `min_saving` per folder: the original stays, and the line says why."""
    made = scene.server.make(f"{folder}.safetensors", seed=8)
    before = Seen.of(made.path)
    path = scene.server.move_in(made.path, f"{folder}/{folder}.safetensors")
    line = scene.daemon.wait_for_file(path)
    assert ("file.kept", reason) == (line["event"], line["reason"])
    assert line["sha256_in"] == before.sha256
    if reason == "max_error":
        assert line["delta_error"] > 0.001
    assert before == Seen.of(path)


def test_a_second_copy_of_an_original_is_a_file_of_its_own(scene: Scene) -> None:
    """The same bytes under another name are compressed and archived under that name."""
    first, first_archived, _ = scene.compress("ultra/first.safetensors", seed=9)
    second, second_archived, line = scene.compress("ultra/second.safetensors", seed=9)
    assert line["event"] == "file.compressed"
    assert Seen.of(first_archived).sha256 == Seen.of(second_archived).sha256
    assert delta.relative_error(delta.deltas(first), delta.deltas(second)) == 0


def test_a_newer_original_moves_the_older_one_aside(scene: Scene) -> None:
    """Another file under the same name: both originals are in the archive, nothing overwritten."""
    old = scene.server.make("again.safetensors", seed=10)
    old_sha256 = Seen.of(old.path).sha256
    path = scene.server.move_in(old.path, "ultra/again.safetensors")
    scene.daemon.wait_for_file(path, "file.compressed")
    new = scene.server.make("again.safetensors", seed=11)
    new_sha256 = Seen.of(new.path).sha256
    scene.server.move_in(new.path, "ultra/again.safetensors")
    line = scene.daemon.wait_for_file(path, "file.compressed")
    assert line["sha256_in"] == new_sha256
    archive = scene.server.archive
    assert Seen.of(archive / "ultra" / path.name).sha256 == new_sha256
    older = archive / ".versions" / old_sha256 / "ultra" / path.name
    assert Seen.of(older).sha256 == old_sha256


def test_tensors_that_are_no_lora_stay_bit_for_bit(scene: Scene) -> None:
    """A learned embedding beside the pairs, and what the metadata said."""
    made = scene.server.make("extra.safetensors", seed=12)
    tensors = load_file(made.path)
    tensors["emb_params"] = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    save_file(tensors, made.path, {"ss_comment": "mine"})
    path = scene.server.move_in(made.path, "ultra/extra.safetensors")
    scene.daemon.wait_for_file(path, "file.compressed")
    assert torch.equal(load_file(path)["emb_params"], tensors["emb_params"])
    with safe_open(path, "pt") as file:
        assert file.metadata()["ss_comment"] == "mine"


@needs_root
def test_the_archive_is_a_second_name_of_the_original(scene: Scene) -> None:
    """On one disk and under a lease the original is linked, which needs no space."""
    _, archived, line = scene.compress("ultra/linked.safetensors", seed=13)
    assert line["archive_method"] == "link"
    assert line["lease"] is True
    assert archived.stat().st_nlink == 1
