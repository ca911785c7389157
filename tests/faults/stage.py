"""Several scenes of one kind, so that cases wait for each other's disk and not for their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from tests.faults.scene import Scene, Violation
from tests.support.suites import FULL

Case = TypeVar("Case")

PARALLEL = 4 if FULL else 2


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
            scene.fresh()
            act(scene, case)
        except Violation as violation:
            return f"{case!s:.100}: {violation!s:.300}"
        finally:
            self._free.put(scene)
        return None


MakeStage = Callable[..., Stage]
