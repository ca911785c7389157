"""The thread of a watched folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from lensd.daemon.root_thread import RootThread
from lensd.watcher.one_file import contain_bug


def test_the_end_of_the_thread_is_no_fault_of_a_file(tmp_path: Path) -> None:
    """What ends the thread in the middle of a file's work is not recorded as that file's bug."""
    unused = cast("Any", None)
    thread = RootThread(str(tmp_path), unused, unused)
    faults: list[str] = []

    def work() -> None:
        with contain_bug(lambda: faults.append("a bug")):
            thread.progress()

    work()
    assert thread.steps == 1
    thread.stop()
    with pytest.raises(BaseException, match=r"^$") as ended:
        work()
    assert not isinstance(ended.value, Exception)
    assert faults == []
