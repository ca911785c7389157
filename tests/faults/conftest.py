"""Real outputs, made once, and scenes to cause faults in: several at a time, to wait less."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lensd.store.identity import Identity
from lensd.worker.supervisor import Worker
from tests.faults.scene import Prepared, Scene
from tests.faults.stage import PARALLEL, MakeStage, Stage
from tests.support.mounts import Mounts
from tests.support.realistic import small_lora

PARAMETERS = {
    "mode": "ultra", "energy": 0.99, "allocation": "module", "target_size": None, "max_rank": None,
    "constant_rank": False, "float32": "auto", "targets": ["comfyui"],
}  # fmt: skip


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Two originals of one size, and what the real worker process makes of them."""
    folder = tmp_path_factory.mktemp("prepared")
    worker = Worker((sys.executable, "-m", "lensd.compute"), lambda *_, **__: None, 60, 60)
    originals = []
    for seed in (1, 2):
        path = small_lora(folder / f"{seed}.safetensors", seed=seed).path
        _prepare(worker, path, folder)
        originals.append(path.read_bytes())
    worker.stop("done")
    assert len(originals[0]) == len(originals[1])
    return Prepared(folder, *originals)


def _prepare(worker: Worker, path: Path, folder: Path) -> None:
    temporary = folder / "temporary"
    temporary.touch()
    inode = temporary.stat()
    answer = worker.request(
        {
            "op": "compress",
            "job_id": "prepared",
            "path": str(path),
            "identity": list(Identity.of(path.stat())),
            "name": path.name,
            "temporary": str(temporary),
            "temporary_inode": [inode.st_dev, inode.st_ino],
            "parameters": PARAMETERS,
            "min_saving": 0.05,
            "max_error": None,
            "device": "cpu",
        },
        give_up=lambda: False,
    )
    assert answer.pop("type") == "result"
    temporary.rename(folder / f"{answer['sha256_in']}.output")
    (folder / f"{answer['sha256_in']}.json").write_text(json.dumps(answer))


@pytest.fixture
def stage(prepared: Prepared, tmp_path: Path) -> Iterator[MakeStage]:
    """`stage(elsewhere=True, refuse=["lease"], quiet=0.1)`: the archive on another disk, ..."""
    made: list[Scene] = []
    with Mounts() as mounts:

        def make(*, elsewhere: bool = False, disk: str = "ext4", **of_scene: Any) -> Stage:
            folder = _disk(mounts, tmp_path, disk)
            for _ in range(PARALLEL):
                top = folder / str(len(made))
                if elsewhere:
                    of_scene["archive"] = mounts.tmpfs(tmp_path / f"archive-{len(made)}")
                made.append(Scene(top, prepared, **of_scene))
            return Stage(made[-PARALLEL:])

        yield make
        for scene in made:
            scene.close()


def _disk(mounts: Mounts, tmp_path: Path, kind: str) -> Path:
    """Where thousands of flushes take no time, if such a disk can be had."""
    if kind == "btrfs":
        return mounts.btrfs_in_memory(tmp_path / kind)
    try:
        return mounts.ext4_in_memory(tmp_path / kind)
    except pytest.skip.Exception:
        return tmp_path
