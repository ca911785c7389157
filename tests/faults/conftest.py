"""Real outputs, made once, and scenes to cause faults in: several at a time, to wait less."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import pytest

from lensd.store.json_lines import encode
from lensd.worker import isolated
from lensd.worker.request import CompressResult
from lensd.worker.supervisor import Worker
from tests.engine import asking
from tests.faults.scene import Missed, Prepared, Scene, Violation
from tests.support.disks import Mounts
from tests.support.home_server import HomeServer
from tests.support.realistic import small_lora

Case = TypeVar("Case")

PARALLEL = 4


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    """Folders and a configuration; nothing runs yet."""
    return HomeServer(tmp_path)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Two originals of one size, and what the real worker process makes of them."""
    folder = tmp_path_factory.mktemp("prepared")
    worker = Worker(isolated.command("lensd.engine"), lambda _: None, 60, 60)
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
    request = asking.output(path, temporary, min_saving=0.05, targets=("comfyui",))
    answer = worker.request(request, give_up=lambda: False)
    assert isinstance(answer, CompressResult)
    sha256 = answer.measures.sha256_in
    temporary.rename(folder / f"{sha256}.output")
    (folder / f"{sha256}.json").write_bytes(encode(answer))


class Stage:
    """Scenes of one kind, and cases that take turns in them."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.scenes = scenes
        self._free: SimpleQueue[Scene] = SimpleQueue()
        for scene in scenes:
            self._free.put(scene)

    def play(self, cases: Sequence[Case], act: Callable[[Scene, Case], None]) -> None:
        """`act` on each case in a fresh scene. Raises Violation with all that went wrong."""
        with ThreadPoolExecutor(len(self.scenes)) as pool:
            wrong = list(filter(None, pool.map(lambda case: self._one(case, act), cases)))
        if wrong:
            raise Violation("\n".join([f"{len(wrong)} of {len(cases)} cases:", *wrong[:12]]))

    def _one(self, case: Case, act: Callable[[Scene, Case], None]) -> str | None:
        scene = self._free.get()
        try:
            for is_last in (False, False, True):
                scene.fresh()
                try:
                    act(scene, case)
                except Missed:
                    if is_last:
                        raise
                else:
                    break
        except Violation as violation:
            return f"{case!s:.100}: {violation!s:.300}"
        finally:
            self._free.put(scene)
        return None


MakeStage = Callable[..., Stage]


@pytest.fixture
def stage(prepared: Prepared, tmp_path: Path) -> Iterator[MakeStage]:
    """`stage(elsewhere=True, refuse=["lease"], quiet=0.1)`: the archive on another disk, ..."""
    made: list[Scene] = []
    with Mounts() as mounts:
        disk = _disk(mounts, tmp_path)

        def make(*, elsewhere: bool = False, **of_scene: Any) -> Stage:
            for _ in range(PARALLEL):
                top = disk / str(len(made))
                if elsewhere:
                    of_scene["archive"] = mounts.tmpfs(tmp_path / f"archive-{len(made)}")
                made.append(Scene(top, prepared, **of_scene))
            return Stage(made[-PARALLEL:])

        yield make
        for scene in made:
            scene.close()


def _disk(mounts: Mounts, tmp_path: Path) -> Path:
    """Where thousands of flushes take no time, if such a disk can be had."""
    try:
        return mounts.ext4_in_memory(tmp_path / "disk")
    except pytest.skip.Exception:
        return tmp_path
